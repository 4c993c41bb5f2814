//! What the worker says of itself: the offer, kept fresh in the presence bucket, whose entries vanish when nobody renews them.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use causey_protocol::codec;
use causey_protocol::live::Offer;
use causey_protocol::subject::{PRESENCE_BUCKET, presence_key};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A third of the time after which an entry vanishes.
const REFRESH_PERIOD: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Presence {
    offer: Offer,
    client: Client,
    subject: String,
    refreshing: Option<DropGuard>,
}

impl Presence {
    pub(crate) fn new(client: Client, offer: Offer) -> Self {
        let subject = format!("$KV.{PRESENCE_BUCKET}.{}", presence_key(&offer.pool, &offer.worker));
        Self { offer, client, subject, refreshing: None }
    }

    pub(crate) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Shows the offer from now on, in the background.
    pub(crate) fn show(&mut self) {
        let stop = CancellationToken::new();
        let (client, subject, stopped) = (self.client.clone(), self.subject.clone(), stop.clone());
        let entry = Bytes::from(codec::encode(&self.offer));
        tokio::spawn(stopped.run_until_cancelled_owned(async move {
            let mut ticker = tokio::time::interval(REFRESH_PERIOD);
            loop {
                ticker.tick().await;
                if client.connection_state() == State::Connected {
                    // Not confirmed: the next one comes soon, and the bucket may not be there yet.
                    let _ = client.publish(subject.clone(), entry.clone()).await;
                }
            }
        }));
        self.refreshing = Some(stop.drop_guard());
    }

    /// Takes the offer back.
    pub(crate) async fn remove(&mut self) {
        self.refreshing = None;
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        let _ = self.client.publish_with_headers(self.subject.clone(), headers, Bytes::new()).await;
    }
}

/// The memory of this machine in MiB; 0 when the system does not say.
pub(crate) fn memory_mb() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|line| line.trim().strip_suffix("kB")).and_then(|number| number.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) / 1024
}

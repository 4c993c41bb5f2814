//! What the worker says of itself: the offer, kept fresh in the presence bucket, whose entries vanish when nobody renews them.

use std::time::Duration;

use bytes::Bytes;
use causey_protocol::codec;
use causey_protocol::live::Offer;
use causey_protocol::subject::{PRESENCE_BUCKET, presence_key};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::outside::Outside;

/// A third of the time after which an entry vanishes.
const REFRESH_PERIOD: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Presence<O> {
    offer: Offer,
    outside: O,
    subject: String,
    refreshing: Option<DropGuard>,
}

impl<O: Outside> Presence<O> {
    pub(crate) fn new(outside: O, offer: Offer) -> Self {
        let subject = format!("$KV.{PRESENCE_BUCKET}.{}", presence_key(&offer.pool, &offer.worker));
        Self { offer, outside, subject, refreshing: None }
    }

    pub(crate) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Shows the offer from now on, in the background.
    pub(crate) fn show(&mut self) {
        let stop = CancellationToken::new();
        let (outside, subject, stopped) = (self.outside.clone(), self.subject.clone(), stop.clone());
        let entry = Bytes::from(codec::encode(&self.offer));
        tokio::spawn(stopped.run_until_cancelled_owned(async move {
            let mut ticker = tokio::time::interval(REFRESH_PERIOD);
            loop {
                ticker.tick().await;
                if outside.is_connected() {
                    // Not confirmed: the next one comes soon, and the bucket may not be there yet.
                    let _ = outside.say(&subject, None, entry.clone()).await;
                }
            }
        }));
        self.refreshing = Some(stop.drop_guard());
    }

    /// Says whether the worker takes tasks; returns whether that is news.
    pub(crate) fn close(&mut self, closed: bool) -> bool {
        let is_news = self.offer.closed != closed;
        self.offer.closed = closed;
        if is_news && self.refreshing.is_some() {
            self.show();
        }
        is_news
    }

    /// Takes the offer back.
    pub(crate) async fn remove(&mut self) {
        self.refreshing = None;
        let _ = self.outside.delete_key(&self.subject).await;
    }
}

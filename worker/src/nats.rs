//! The worker's own connection to NATS: made on the thread of its loop, kept up for ever, its ups and downs told to the loop.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event as ClientEvent, HeaderMap, Request, ServerAddr, Subject, Subscriber, jetstream};
use bytes::Bytes;
use causey_protocol::backoff::Delays;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::outside::{Listener, Message, Outside, Unanswered};
use crate::worker::Event;

/// Waits between tries to connect.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Commands queued for the connection, and messages queued for a subscription.
const QUEUE_MAX: usize = 8192;

/// The servers that `url` names, separated by commas.
///
/// # Errors
/// When one of them is no address.
pub(crate) fn servers(url: &str) -> std::io::Result<Vec<ServerAddr>> {
    url.split(',').map(|server| server.trim().parse()).collect()
}

/// Connects in the background to one of the servers that `url` names, separated by commas: the client works once a server does.
///
/// # Errors
/// When `url` is not an address.
pub async fn connect(url: &str, name: String, events: mpsc::UnboundedSender<Event>) -> Result<Nats, async_nats::ConnectError> {
    let delays = Mutex::new(Delays::new(FIRST_WAIT, LONGEST_WAIT));
    let servers = servers(url)?;
    let mut options = ConnectOptions::new();
    // The client does not take them from the address by itself.
    if let Some((user, password)) = servers.iter().find_map(|server| server.username().zip(server.password())) {
        options = options.user_and_password(user.to_owned(), password.to_owned());
        // A private inbox: with per-role permissions nobody else may read the replies.
        options = options.custom_inbox_prefix(format!("_INBOX_{user}"));
    }
    let options = options
        .name(name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .client_capacity(QUEUE_MAX)
        .subscription_capacity(QUEUE_MAX)
        .reconnect_delay_callback(move |tries| {
            let mut delays = delays.lock().unwrap_or_else(PoisonError::into_inner);
            if tries <= 1 {
                delays.reset();
            }
            delays.next_delay()
        })
        .event_callback(move |event| {
            let events = events.clone();
            async move {
                match event {
                    ClientEvent::Connected => drop(events.send(Event::Connected)),
                    ClientEvent::Disconnected => tracing::warn!("the connection to NATS is lost; reconnecting"),
                    ClientEvent::SlowConsumer(_) => tracing::warn!("messages from NATS were dropped; they will be delivered again"),
                    ClientEvent::ServerError(error) => tracing::warn!(%error, "NATS refuses something"),
                    ClientEvent::ClientError(error) => tracing::debug!(%error, "NATS client"),
                    ClientEvent::LameDuckMode | ClientEvent::Draining | ClientEvent::Closed => tracing::debug!(%event, "NATS client"),
                }
            }
        });
    let client = options.connect(servers).await?;
    Ok(Nats { jetstream: jetstream::new(client.clone()), client })
}

/// The connection.
#[derive(Clone, Debug)]
pub struct Nats {
    client: Client,
    jetstream: jetstream::Context,
}

impl Nats {
    /// Waits until everything sent has left.
    pub(crate) async fn flush(&self) {
        let _ = self.client.flush().await;
    }
}

impl Outside for Nats {
    type Listener = Subscriber;

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    fn inbox(&self) -> String {
        self.client.new_inbox()
    }

    async fn listen(&self, pattern: &str) -> Result<Subscriber, Unanswered> {
        self.client.subscribe(Subject::from(pattern)).await.map_err(Unanswered::new)
    }

    async fn say(&self, subject: &str, reply: Option<&str>, payload: Bytes) -> Result<(), Unanswered> {
        let subject = Subject::from(subject);
        match reply {
            Some(reply) => self.client.publish_with_reply(subject, Subject::from(reply), payload).await.map_err(Unanswered::new),
            None => self.client.publish(subject, payload).await.map_err(Unanswered::new),
        }
    }

    async fn ask(&self, subject: &str, payload: Bytes, patience: Duration) -> Result<Bytes, Unanswered> {
        let request = Request::new().payload(payload).timeout(Some(patience));
        let answer = self.client.send_request(Subject::from(subject), request).await.map_err(Unanswered::new)?;
        Ok(answer.payload)
    }

    async fn store(&self, subject: &str, payload: Bytes) -> Result<(), Unanswered> {
        let sent = self.jetstream.publish(Subject::from(subject), payload).await.map_err(Unanswered::new)?;
        sent.await.map(drop).map_err(Unanswered::new)
    }

    async fn delete_key(&self, subject: &str) -> Result<(), Unanswered> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        self.client.publish_with_headers(Subject::from(subject), headers, Bytes::new()).await.map_err(Unanswered::new)
    }
}

impl Listener for Subscriber {
    async fn next(&mut self) -> Option<Message> {
        let message = StreamExt::next(self).await?;
        let unfilled = message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
        Some(Message {
            subject: message.subject.into_string(),
            reply: message.reply.map(Subject::into_string),
            payload: message.payload,
            status: message.status.map(|status| status.as_u16()),
            unfilled: unfilled.and_then(|count| count.as_str().parse().ok()),
            description: message.description.unwrap_or_default(),
        })
    }

    async fn drain(&mut self) {
        let _ = Subscriber::drain(self).await;
    }
}

/// The address without user and password.
pub(crate) fn shown(url: &str) -> String {
    let hidden = |url: &str| match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host)),
        None => url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned(),
    };
    url.split(',').map(hidden).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_address_holds_no_password() {
        assert_eq!(shown("nats://user:secret@host:4222"), "nats://host:4222");
        assert_eq!(shown("nats://host:4222"), "nats://host:4222");
        assert_eq!(shown("user:secret@host"), "host");
    }
}

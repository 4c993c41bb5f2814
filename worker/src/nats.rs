//! The worker's own connection to NATS: made on the thread of its loop, kept up for ever, its ups and downs told to the loop.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event as ClientEvent, ServerAddr};
use causey_protocol::backoff::Delays;
use tokio::sync::mpsc;

use crate::worker::Event;

/// Waits between tries to connect.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Commands queued for the connection, and messages queued for a subscription.
const QUEUE_MAX: usize = 8192;

/// Connects in the background: the client works once the server does.
///
/// # Errors
/// When `url` is not an address.
pub(crate) async fn connect(url: &str, name: String, events: mpsc::UnboundedSender<Event>) -> Result<Client, async_nats::ConnectError> {
    let delays = Mutex::new(Delays::new(FIRST_WAIT, LONGEST_WAIT));
    let server: ServerAddr = url.parse()?;
    let mut options = ConnectOptions::new();
    // The client does not take them from the address by itself.
    if let (Some(user), Some(password)) = (server.username(), server.password()) {
        options = options.user_and_password(user.to_owned(), password.to_owned());
        // A private inbox: with per-role permissions nobody else may read the replies.
        options = options.custom_inbox_prefix(format!("_INBOX_{user}"));
    }
    options
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
        })
        .connect(server)
        .await
}

/// The address without user and password.
pub(crate) fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host)),
        None => url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned(),
    }
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

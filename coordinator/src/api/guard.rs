//! Who may call: the token under `/v1`, and no page of a foreign site, which a browser would let talk to a server on loopback
//! (DNS rebinding, cross-site requests). There is no CORS: no other origin is ever let in.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use causey_protocol::problem::{Code, Problem};

use super::context::Context;

/// Lets a call through or refuses it.
pub(super) async fn check(State(context): State<Context>, request: Request, next: Next) -> Response {
    match allowed(&context.token, context.listen, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => super::refusal::Refusal::from(problem).into_response(),
    }
}

fn allowed(token: &blake3::Hash, listen: SocketAddr, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let host = uri.authority().map(|authority| authority.as_str()).or_else(|| text(headers, header::HOST.as_str())).unwrap_or_default();
    if listen.ip().is_loopback() && !is_own(host, listen) {
        let problem = Problem::new(Code::FOREIGN_ORIGIN, format!("this server is not called {host:?}"));
        return Err(problem.hint("it listens on loopback: call it localhost or 127.0.0.1"));
    }
    if headers.contains_key(header::ORIGIN) && !text(headers, header::ORIGIN.as_str()).is_some_and(|origin| is_same(origin, host)) {
        let problem = Problem::new(Code::FOREIGN_ORIGIN, "pages of another origin may not call this server");
        return Err(problem.hint("call it from a program, or from the pages it serves itself"));
    }
    let path = uri.path();
    if (path == "/v1" || path.starts_with("/v1/")) && !has_token(token, headers) {
        let hint = "send `Authorization: Bearer TOKEN`; the token is in .causey/token of the project, or in the file given to the \
                    coordinator with --token-file";
        let what = if headers.contains_key(header::AUTHORIZATION) { "the token is not this server's" } else { "the call carries no token" };
        return Err(Problem::new(Code::UNAUTHORIZED, what).hint(hint));
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a `Host` is one of our loopback names. Any port: a tunnel may have another one, and only the name guards.
fn is_own(host: &str, listen: SocketAddr) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let as_listened = |address: IpAddr| listen.ip() == address;
    name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "::1" || name.parse::<IpAddr>().is_ok_and(as_listened)
}

/// Whether an `Origin` is the server itself as the browser calls it.
fn is_same(origin: &str, host: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Hashes compare in constant time, so the answer's delay tells nothing about the token.
fn has_token(token: &blake3::Hash, headers: &HeaderMap) -> bool {
    let given = text(headers, header::AUTHORIZATION.as_str()).and_then(|value| value.split_once(' '));
    given.is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case("bearer") && blake3::hash(given.trim().as_bytes()) == *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(listen: &str, path: &str, headers: &[(&'static str, &str)]) -> Option<Code> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let listen = listen.parse().unwrap();
        allowed(&blake3::hash(b"secret"), listen, &path.parse().unwrap(), &headers).err().map(|problem| problem.code)
    }

    const LOOPBACK: &str = "127.0.0.1:4780";
    const TOKEN: (&str, &str) = ("authorization", "Bearer secret");

    #[test]
    fn calls_under_v1_need_the_token_and_probes_do_not() {
        let host = ("host", "127.0.0.1:4780");
        assert_eq!(refused(LOOPBACK, "/v1/status", &[host]), Some(Code::UNAUTHORIZED));
        assert_eq!(refused(LOOPBACK, "/v1/nothing", &[host, ("authorization", "Bearer wrong")]), Some(Code::UNAUTHORIZED));
        assert_eq!(refused(LOOPBACK, "/v1/status", &[host, ("authorization", "Basic secret")]), Some(Code::UNAUTHORIZED));
        assert_eq!(refused(LOOPBACK, "/v1/status", &[host, TOKEN]), None);
        assert_eq!(refused(LOOPBACK, "/livez", &[host]), None);
    }

    #[test]
    fn a_server_on_loopback_answers_only_to_its_own_names() {
        for host in ["localhost", "LOCALHOST:4780", "127.0.0.1:9", "[::1]:4780", "[::1]"] {
            assert_eq!(refused(LOOPBACK, "/v1/status", &[("host", host), TOKEN]), None, "{host}");
        }
        for host in ["evil.example:4780", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert_eq!(refused(LOOPBACK, "/livez", &[("host", host)]), Some(Code::FOREIGN_ORIGIN), "{host}");
        }
        assert_eq!(refused(LOOPBACK, "/livez", &[]), Some(Code::FOREIGN_ORIGIN));
        assert_eq!(refused("127.0.0.2:4780", "/livez", &[("host", "127.0.0.2:4780")]), None);
        assert_eq!(refused("0.0.0.0:4780", "/livez", &[("host", "causey.example")]), None);
    }

    #[test]
    fn a_foreign_origin_is_refused_everywhere() {
        let host = ("host", "localhost:4780");
        let with = |origin| refused(LOOPBACK, "/v1/status", &[host, TOKEN, ("origin", origin)]);
        assert_eq!(with("http://localhost:4780"), None);
        for origin in ["http://evil.example", "null", "http://localhost:3000", "file://localhost:4780"] {
            assert_eq!(with(origin), Some(Code::FOREIGN_ORIGIN), "{origin}");
        }
        assert_eq!(refused("0.0.0.0:4780", "/metrics", &[("host", "a"), ("origin", "http://b")]), Some(Code::FOREIGN_ORIGIN));
    }
}

//! `causey events publish`: one CloudEvent, and what it started or why it did not.

use causey_protocol::event::CloudEvent;
use serde_json::{Value, json};

use crate::arguments::Publish;
use crate::client::answer::Published;
use crate::command::given;
use crate::command::watch::{Watched, watch};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::screen::failure::Context;
use crate::screen::live::{Screen, print_json, print_text};
use crate::screen::paint::Paint;
use crate::session;
use crate::signals::Signals;
use crate::state::random_hex;

/// Runs the command. On a stack of its own it stays until the runs it started have ended, for they would stop with it.
///
/// # Errors
/// When the data is not JSON, or the server cannot be reached or refuses.
pub(crate) async fn publish(arguments: &Publish) -> Result<Exit, Fault> {
    let event = event(arguments)?;
    let mut signals = Signals::listen()?;
    let mut session = tokio::select! {
        session = session::connect(&arguments.place, None) => session?,
        exit = signals.next() => return Ok(exit),
    };
    let published = tokio::select! {
        published = session.client.post_event(&event) => published,
        fault = session.given_up() => Err(fault),
        exit = signals.next() => {
            session.kill().await;
            return Ok(exit);
        }
    };
    let published = match published {
        Ok(published) => published,
        Err(fault) => {
            session.kill().await;
            return Err(fault);
        }
    };
    if arguments.json {
        print_json(&json!(published));
    } else {
        print_text(&text(&published));
    }
    let mut exit = Exit::Ok;
    if session.is_own() {
        for started in &published.started {
            let mut screen = Screen::new(arguments.json);
            let context = Context { sources: None, again: None, paint: Paint::stderr() };
            match watch(&mut session, &started.name, &mut screen, &mut signals, context).await {
                Ok(Watched::Ended(Exit::Ok)) => {}
                Ok(Watched::Ended(ended)) => exit = ended,
                Ok(Watched::Left(left)) => {
                    session.kill().await;
                    return Ok(left);
                }
                Err(fault) => {
                    session.kill().await;
                    return Err(fault);
                }
            }
        }
    }
    session.close(&mut signals).await;
    Ok(exit)
}

fn event(arguments: &Publish) -> Result<Value, Fault> {
    let mut event = json!({"specversion": "1.0", "id": arguments.id.clone().unwrap_or_else(random_hex), "source": arguments.source,
        "type": arguments.kind, "time": jiff::Timestamp::now().to_string()});
    if let Some(told) = arguments.data.as_deref() {
        event["data"] = given::json(told, "--data")?;
        event["datacontenttype"] = json!("application/json");
    }
    if let Some(subject) = &arguments.subject {
        event["subject"] = json!(subject);
    }
    CloudEvent::from_structured(event.clone()).map_err(Fault::usage)?;
    Ok(event)
}

fn text(published: &Published) -> String {
    let duplicate = if published.duplicate { " (a duplicate: it was here before)" } else { "" };
    let mut lines = vec![format!("event {} accepted{duplicate}", published.id)];
    lines.extend(published.started.iter().map(|started| format!("  started {} {}", started.flow, started.name)));
    lines.extend(published.because.iter().map(|because| format!("  {because}")));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Place;
    use crate::client::answer::Started;

    fn arguments(data: &str) -> Publish {
        let place = Place::default();
        Publish {
            kind: "viewing.arrived".into(),
            data: Some(data.into()),
            source: "/s".into(),
            subject: None,
            id: Some("1".into()),
            json: false,
            place,
        }
    }

    #[test]
    fn an_event_is_a_valid_cloud_event() {
        let event = event(&arguments(r#"{"day":"2026-11-23"}"#)).unwrap();
        assert_eq!((&event["type"], &event["id"], &event["data"]["day"]), (&json!("viewing.arrived"), &json!("1"), &json!("2026-11-23")));
    }

    #[test]
    fn data_that_is_not_json_is_refused_with_advice() {
        let fault = event(&arguments("day")).unwrap_err();
        assert!(fault.message.contains("not JSON") && fault.hint.unwrap().contains("quotes"));
    }

    #[test]
    fn the_answer_says_what_was_started() {
        let started = vec![Started { flow: "Hello".into(), run: "0199".into(), name: "brisk-otter-41".into() }];
        let published = Published { sequence: 1, id: "1".into(), source: "/s".into(), started, because: vec![], duplicate: false };
        assert_eq!(text(&published), "event 1 accepted\n  started Hello brisk-otter-41\n");
    }
}

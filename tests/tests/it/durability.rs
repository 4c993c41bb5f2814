//! The log stays short and nothing is lost with what it sheds: snapshots, archive, histories of finished runs, and streams that fill up.

use std::path::{Path, PathBuf};

use causey_coordinator::projection::Projection;
use causey_protocol::record::Record;
use causey_tests::service::Place;
use causey_tests::{Api, Coordinator, History, Nats, Project, SmallDisk, until};
use serde_json::{Value, json};

/// A coordinator that takes snapshots every second and keeps one finished run whole.
pub(crate) fn eager(base: &Path) -> Place {
    let options = ["--snapshot-seconds=1", "--runs-whole-max=1"].map(str::to_owned).to_vec();
    Place { options, ..Place::new(base, "one") }
}

/// Submits a run whose first step nobody will take.
async fn submit(api: &Api, id: &str, text: &str) -> causey_tests::api::Reply {
    let package = b"no tar";
    let digest = blake3::hash(package).to_hex().to_string();
    let put = api.call(reqwest::Method::PUT, &format!("/v1/packages/{digest}")).body(&package[..]);
    assert!(causey_tests::api::send(put).await.status.is_success());
    let step = |name: &str, next: Value| json!({"name": name, "line": 1, "doc": "", "join": false, "next": next, "retry": null, "catch": null, "resources": null, "host": null});
    let parameter = json!({"name": "text", "type": "str", "required": false, "default": "", "help": ""});
    let definition = json!({"format": 1, "name": "Idle", "language": "python", "file": "f.py", "package": digest, "doc": "",
        "steps": [step("start", json!({"linear": {"to": "end"}})), step("end", json!("end"))], "parameters": [parameter], "triggers": []});
    api.post("/v1/runs", &json!({"request_id": id, "definition": definition, "parameters": {"text": text}, "tags": ["night"]})).await
}

async fn cancelled(api: &Api, id: &str, text: &str) -> String {
    let reply = submit(api, id, text).await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    let run = reply.body["run"].as_str().unwrap().to_owned();
    let reply = api.post(&format!("/v1/runs/{run}/cancel"), &json!({"reason": "enough"})).await;
    assert_eq!(reply.status.as_u16(), 202, "{reply:?}");
    run
}

/// Everything the API says about runs, in all its forms.
async fn everything(api: &Api, runs: &[String]) -> Vec<Value> {
    let mut found = vec![api.get("/v1/runs").await, api.get("/v1/runs?state=cancelled&flow=Idle").await];
    for run in runs {
        let view = api.get(&format!("/v1/runs/{run}")).await;
        let name = view["name"].as_str().unwrap().to_owned();
        assert_eq!(api.get(&format!("/v1/runs/{name}")).await, view, "by name");
        found.push(view);
        found.push(api.get(&format!("/v1/runs/{run}/tasks")).await);
        found.push(api.get(&format!("/v1/runs/{name}/logs")).await);
    }
    found
}

async fn first_sequence(nats: &Nats, stream: &str) -> u64 {
    let context = async_nats::jetstream::new(nats.client().await);
    context.get_stream(stream).await.unwrap().cached_info().state.first_sequence
}

/// Snapshots in the store, the newest first.
fn snapshots(place: &Place) -> Vec<PathBuf> {
    let sequence = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let mut found: Vec<PathBuf> = std::fs::read_dir(place.store.join("snap")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort_by_key(|path| std::cmp::Reverse(sequence(path)));
    found
}

/// Changes a stored file, which is read-only.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn state_arguments<'a>(command: &'a str, url: &'a str, place: &'a Place) -> Vec<&'a str> {
    let (store, projection) = (place.store.to_str().unwrap(), place.projection.to_str().unwrap());
    vec!["state", command, "--json", "--nats-url", url, "--store", store, "--projection", projection]
}

#[tokio::test]
async fn runs_are_the_same_after_trimming_from_projection_snapshot_and_archive() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let (place, url) = (eager(base), nats.url());
    let (mut first, api) = Coordinator::leading(&nats, base, &place).await;
    let mut runs = Vec::new();
    for (number, text) in ["a", "b", &"long ".repeat(2_000), "d"].into_iter().enumerate() {
        runs.push(cancelled(&api, &format!("r{number}"), text).await);
    }
    let before = everything(&api, &runs).await;
    assert_eq!(before[0]["runs"].as_array().map(Vec::len), Some(4));

    // Every round brings changes, until what was said about the runs has been trimmed from log and inbox.
    let mut deployed = 0;
    until("log and inbox are trimmed behind the runs", 60, async || {
        deployed += 1;
        let unknown = api.post(&format!("/v1/runs/{}/cancel", runs[0]), &json!({"request_id": format!("again-{deployed}")})).await;
        assert_eq!(unknown.status.as_u16(), 202, "a run that has ended long ago counts as being cancelled: {unknown:?}");
        let retired = place.store.join(format!("runs/{}/history", runs[2])).exists();
        (retired && first_sequence(&nats, "CAUSEY_LOG").await > 10 && first_sequence(&nats, "CAUSEY_IN").await > 8).then_some(())
    })
    .await;
    assert_eq!(everything(&api, &runs).await, before, "after trimming");
    assert!(snapshots(&place).len() <= 3, "{:?}", snapshots(&place));
    let unknown = api.call(reqwest::Method::GET, "/v1/runs/0199aaaa-0000-7000-8000-000000000000");
    causey_tests::api::send(unknown).await.refused(404, "CSY-1006", &["no run"]);
    assert!(first.service.stop(20).await.success());

    let (_, state, tail) = Projection::open(&place.projection).unwrap();
    assert_eq!((state.runs.len(), state.retired.len()), (1, 3));
    let verified = project.ok(&state_arguments("verify", &url, &place)).await.json();
    assert_eq!((&verified["problems"], &verified["projection"]), (&json!([]), &json!(tail.sequence)), "{verified}");
    assert_eq!((&verified["state"], &verified["histories"]), (&json!(state.hash()), &json!(4)), "{verified}");
    assert!(verified["archived"].as_u64().unwrap() >= 10, "{verified}");

    std::fs::remove_dir_all(&place.projection).unwrap();
    let rebuilt = project.ok(&state_arguments("rebuild", &url, &place)).await.json();
    assert_eq!(rebuilt["state"], verified["state"], "I9: snapshot and tail give another state than the fold");
    again(&nats, base, &place, &runs, &before, "with a rebuilt projection").await;

    std::fs::remove_dir_all(&place.projection).unwrap();
    again(&nats, base, &place, &runs, &before, "from the newest snapshot").await;

    flip(&snapshots(&place)[0]);
    let damaged = project.expect(1, &state_arguments("verify", &url, &place)).await.json();
    assert!(damaged["problems"][0].as_str().unwrap().contains("checksum"), "{damaged}");
    std::fs::remove_dir_all(&place.projection).unwrap();
    again(&nats, base, &place, &runs, &before, "from the older snapshot").await;

    // The log stays as it is from here on, so that nothing new is snapshotted.
    let place = Place { options: vec!["--snapshot-seconds=3600".into(), "--runs-whole-max=1".into()], ..place };
    std::fs::remove_dir_all(place.store.join("snap")).unwrap();
    std::fs::remove_dir_all(&place.projection).unwrap();
    again(&nats, base, &place, &runs, &before, "from the archive").await;

    std::fs::remove_dir_all(place.store.join("arch")).unwrap();
    std::fs::remove_dir_all(&place.projection).unwrap();
    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert_eq!(status, Some(1));
    for part in ["CAUSEY_LOG begins at sequence", "there is no snapshot", "the archive ends at turn 0", "help  "] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
}

async fn again(nats: &Nats, base: &Path, place: &Place, runs: &[String], before: &[Value], how: &str) {
    let (mut coordinator, api) = Coordinator::leading(nats, base, place).await;
    assert_eq!(everything(&api, runs).await, before, "{how}");
    assert!(coordinator.service.stop(20).await.success());
}

/// Row 14 of the fault model.
#[tokio::test]
async fn a_log_that_lost_its_end_is_refused_and_its_loss_cannot_be_accepted() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place::new(base, "one");
    let (mut first, api) = Coordinator::leading(&nats, base, &place).await;
    for id in ["a", "b", "c"] {
        cancelled(&api, id, id).await;
    }
    assert!(first.service.stop(20).await.success());
    // One flipped bit: without its index the server cuts the stream there when it starts.
    let nats = nats
        .changed(|folder| {
            let messages = folder.join("jetstream/$G/streams/CAUSEY_LOG/msgs");
            flip(&messages.join("1.blk"));
            std::fs::remove_file(messages.join("index.db")).unwrap();
        })
        .await;
    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert_eq!(status, Some(1));
    let context = async_nats::jetstream::new(nats.client().await);
    let last = context.get_stream("CAUSEY_LOG").await.unwrap().cached_info().state.last_sequence;
    for part in ["CAUSEY_LOG moved back", &format!("ends at sequence {last}"), "restore", "help  "] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
    let url = nats.url();
    let verified = project.expect(1, &state_arguments("verify", &url, &place)).await.json();
    assert!(verified["problems"].to_string().contains("CAUSEY_LOG moved back"), "{verified}");
    project.expect(1, &state_arguments("accept-loss", &url, &place)).await.says(&["CAUSEY_LOG", "not one whose loss can be accepted"]);
    // Without the projection the notifications still tell how far the log went.
    std::fs::remove_dir_all(&place.projection).unwrap();
    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert!(status == Some(1) && words.contains("CAUSEY_LOG moved back"), "{words}");
}

/// Payloads of the log's messages, as far as the server still has them.
async fn payloads(nats: &Nats) -> Vec<bytes::Bytes> {
    let context = async_nats::jetstream::new(nats.client().await);
    let log = context.get_stream("CAUSEY_LOG").await.unwrap();
    let mut found = Vec::new();
    for sequence in 1..=log.cached_info().state.last_sequence {
        found.extend(log.get_raw_message(sequence).await.ok().map(|message| message.payload));
    }
    found
}

/// A coordinator's last words, or the hash of the log's fold when it leads. What it wrote itself is left out.
async fn comes_to(nats: &Nats, base: &Path, place: &Place, turns: usize) -> Result<Vec<bytes::Bytes>, String> {
    let mut coordinator = Coordinator::start(nats, base, place);
    let api = until("it leads or ends", 30, async || {
        if coordinator.service.ended().is_some() {
            return Some(None);
        }
        let said = coordinator.service.stdout();
        let url = said.lines().find_map(|line| line.strip_prefix("listening "))?.to_owned();
        let api = Api::new(&url, causey_tests::service::TOKEN);
        let leads = api.try_get("/v1/status").await.is_some_and(|status| status["role"] == "leader");
        leads.then_some(Some(api))
    })
    .await;
    if api.is_none() {
        return Err(coordinator.service.stderr());
    }
    assert!(coordinator.service.stop(20).await.success());
    let mut found = payloads(nats).await;
    found.truncate(turns);
    Ok(found)
}

fn copied(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// A flipped bit at `part` of 8 of the server's file of the log, with or without the server's index of it.
async fn flipped_at(project: &Project, part: usize, index: bool, turns: &[bytes::Bytes]) {
    let base = project.file(&format!("flipped-{part}-{index}"));
    copied(&project.file("saved"), &base);
    let messages = base.join("jetstream/jetstream/$G/streams/CAUSEY_LOG/msgs");
    let block = messages.join("1.blk");
    let mut bytes = std::fs::read(&block).unwrap();
    let at = bytes.len() * (2 * part + 1) / 16;
    bytes[at] ^= 1;
    std::fs::write(&block, bytes).unwrap();
    if !index {
        std::fs::remove_file(messages.join("index.db")).unwrap();
    }
    let nats = Nats::start(&base.join("jetstream")).await;
    let (place, url) = (Place::new(&base, "one"), nats.url());
    let left = payloads(&nats).await;
    let intact = left == turns;
    let names_the_place = |words: &str| words.contains("CAUSEY_LOG") && (words.contains("sequence ") || words.contains("message "));
    let verified = project.run(&state_arguments("verify", &url, &place)).await;
    assert_eq!(verified.status, Some(if intact { 0 } else { 1 }), "byte {at}: {verified:#?}");
    assert!(intact || names_the_place(&verified.stdout), "byte {at}: {verified:#?}");
    // With its copy a coordinator may not need the turn that is lost; what it goes on from is right all the same.
    if let Err(words) = comes_to(&nats, &base, &place, turns.len()).await {
        assert!(!intact && names_the_place(&words), "byte {at}: {words}");
    }
    std::fs::remove_dir_all(&place.projection).unwrap();
    match comes_to(&nats, &base, &place, turns.len()).await {
        // Of an end that the server has cut off nobody else knows then: what was decided in it is decided anew.
        Ok(found) => {
            let cut = turns.starts_with(&left) && left.len() + 1 == turns.len();
            assert!((intact || cut) && found.starts_with(&left), "byte {at}: it leads with {} turns of {}", left.len(), turns.len());
        }
        Err(words) => assert!(!intact && names_the_place(&words), "byte {at}: {words}"),
    }
}

/// Row 14 of the fault model.
#[tokio::test]
async fn row_14_a_bit_flipped_anywhere_in_the_servers_file_of_the_log_is_named_and_never_folded() {
    let project = Project::new();
    let saved = project.file("saved");
    std::fs::create_dir(&saved).unwrap();
    let nats = Nats::start(&saved.join("jetstream")).await;
    let place = Place::new(&saved, "one");
    let (mut first, api) = Coordinator::leading(&nats, &saved, &place).await;
    for id in ["a", "b", "c"] {
        cancelled(&api, id, id).await;
    }
    assert!(first.service.stop(20).await.success());
    let turns = payloads(&nats).await;
    // Stopped in good order, it writes its index.
    let nats = nats.changed(|_| {}).await;
    drop(nats);
    for index in [true, false] {
        futures_util::future::join_all((0..8).map(|part| flipped_at(&project, part, index, &turns))).await;
    }
}

/// Row 15 of the fault model.
#[tokio::test]
async fn a_stream_of_inputs_that_moved_back_is_read_on_once_its_loss_is_accepted() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let (place, url) = (Place::new(base, "one"), nats.url());
    let (mut first, api) = Coordinator::leading(&nats, base, &place).await;
    let run = cancelled(&api, "a", "a").await;
    project.expect(4, &state_arguments("accept-loss", &url, &place)).await.says(&["coordinator `one` leads", "stop it first"]);
    project.expect(4, &state_arguments("rebuild", &url, &place)).await.says(&["cannot be removed", "stop the coordinator"]);
    assert!(first.service.stop(20).await.success());
    let nothing = project.ok(&state_arguments("accept-loss", &url, &place)).await.json();
    assert_eq!(nothing["accepted"], json!([]));

    let context = async_nats::jetstream::new(nats.client().await);
    let config = context.get_stream("CAUSEY_IN").await.unwrap().cached_info().config.clone();
    context.delete_stream("CAUSEY_IN").await.unwrap();
    context.create_stream(config.clone()).await.unwrap();
    // As many messages as had been read: only the time of its creation tells that it is another stream.
    for _ in 0..5 {
        context.publish("causey.in.request.nonsense", "nonsense".into()).await.unwrap().await.unwrap();
    }
    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert_eq!(status, Some(1));
    for part in ["CAUSEY_IN is another one than before", "causey state accept-loss", "help  "] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
    let accepted = project.ok(&state_arguments("accept-loss", &url, &place)).await.json();
    assert_eq!((&accepted["accepted"][0]["stream"], &accepted["accepted"][0]["another"]), (&json!("CAUSEY_IN"), &json!(true)));

    let (_second, api) = Coordinator::leading(&nats, base, &place).await;
    assert_eq!(api.get(&format!("/v1/runs/{run}")).await["state"], "cancelled");
    cancelled(&api, "b", "b").await;
    let history = History::read(&nats.client().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    let losses = history.records().filter(|(_, record)| matches!(record, Record::LossAccepted { .. })).count();
    let nonsense = history.records().filter(|(_, record)| matches!(record, Record::DeadLettered(_))).count();
    assert_eq!((losses, nonsense), (1, 5), "the new stream is read from its beginning");
}

/// Row 15 of the fault model.
#[tokio::test]
async fn a_stream_that_vanishes_under_a_leader_stops_it_at_the_reconnect() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let (mut first, api) = Coordinator::leading(&nats, base, &Place::new(base, "one")).await;
    cancelled(&api, "a", "a").await;
    let _nats = nats.changed(|folder| std::fs::remove_dir_all(folder.join("jetstream/$G/streams/CAUSEY_EVENT")).unwrap()).await;
    let (status, words) = first.last_words().await;
    assert_eq!(status, Some(1));
    assert!(words.contains("CAUSEY_EVENT is missing") && words.contains("help  "), "{words}");
}

/// Size cap of each stream in the test of full ones, in bytes.
const CAP: u64 = 400_000;

/// Row 13 of the fault model.
#[tokio::test]
async fn nearly_full_streams_refuse_new_runs_and_events_and_recover_by_themselves() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let options = vec!["--snapshot-seconds=3600".to_owned(), format!("--stream-bytes-max={CAP}")];
    let place = Place { options, ..Place::new(base, "one") };
    let (mut first, api) = Coordinator::leading(&nats, base, &place).await;
    let context = async_nats::jetstream::new(nats.client().await);
    let text = "x".repeat(20_000);
    let mut refused = None;
    for number in 0..60 {
        let reply = submit(&api, &format!("r{number}"), &text).await;
        if reply.status.as_u16() == 507 {
            refused = Some(reply);
            break;
        }
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
        // Its task would stay in the queue: nobody works here.
        let cancel = format!("/v1/runs/{}/cancel", reply.body["run"].as_str().unwrap());
        assert_eq!(api.post(&cancel, &json!({})).await.status.as_u16(), 202);
        let used = context.get_stream("CAUSEY_LOG").await.unwrap().cached_info().state.bytes;
        let noticed = async || {
            let metrics = api.bare(reqwest::Method::GET, "/metrics").send().await.ok()?.text().await.ok()?;
            let line = metrics.lines().find_map(|line| line.strip_prefix("causey_storage_fill_percent "))?.parse::<f64>().ok()?;
            let level = api.get("/v1/status").await["storage"]["level"] != "ample";
            (level || line >= (used * 100 / CAP) as f64).then_some(())
        };
        until("the fill is measured", 20, noticed).await;
    }
    refused.expect("a submission is refused").refused(507, "CSY-4002", &["% full", "no new runs and events", "once there is room"]);
    let last = until("a submission is accepted again", 60, async || {
        let reply = submit(&api, "later", "small").await;
        (reply.status.as_u16() == 201).then_some(reply)
    })
    .await;
    assert_eq!(api.get("/v1/status").await["storage"]["level"], "ample");
    assert!(first_sequence(&nats, "CAUSEY_LOG").await > 1, "room comes from trimming");
    let run = last.body["run"].as_str().unwrap();
    assert_eq!(api.get(&format!("/v1/runs/{run}")).await["parameters"]["text"], "small");
    let before = api.get("/v1/runs").await;
    assert!(first.service.stop(20).await.success());
    std::fs::remove_dir_all(&place.projection).unwrap();
    let (_second, api) = Coordinator::leading(&nats, base, &place).await;
    assert_eq!(api.get("/v1/runs").await, before);
}

/// Publishes an event; its id in the events stream if it was accepted.
async fn event(api: &Api, id: &str) -> Option<String> {
    let event = json!({"specversion": "1.0", "id": id, "source": "/disk", "type": "arrived", "data": {"text": "x".repeat(2_000)}});
    let call = api.call(reqwest::Method::POST, "/v1/events").header("content-type", "application/cloudevents+json");
    let reply = causey_tests::api::send(call.body(event.to_string())).await;
    if !reply.status.is_success() {
        reply.refused(503, "CSY-5001", &["events stream", "free disk"]);
        return None;
    }
    Some(id.to_owned())
}

/// Row 13 of the fault model where streams have no caps: the server then stores nothing and says nothing, and has to be started again
/// once there is room.
#[tokio::test]
async fn row_13_a_full_disk_below_streams_without_caps_loses_nothing_that_was_accepted() {
    let project = Project::new();
    let base = project.path();
    let at = project.file("disk");
    let Some(_disk) = SmallDisk::mount(&at, 24) else { return };
    let nats = Nats::start(&at.join("jetstream")).await;
    let (mut coordinator, api) = Coordinator::leading(&nats, base, &Place::new(base, "one")).await;
    let run = cancelled(&api, "before", "a").await;
    let mut accepted = vec![event(&api, "before").await.expect("there is room")];
    let free = rustix::fs::statvfs(&at).map(|found| found.f_bavail * found.f_frsize).unwrap();
    std::fs::write(at.join("filler"), vec![0_u8; usize::try_from(free).unwrap()]).unwrap();
    for number in 0.. {
        let Some(id) = event(&api, &format!("filling-{number}")).await else { break };
        accepted.push(id);
    }
    let words = ["does not answer what is to be stored", "no space left on device", "restart it"];
    until("the coordinator says what is wrong", 60, async || {
        let said = coordinator.service.stderr();
        words.iter().all(|words| said.contains(words)).then_some(())
    })
    .await;
    assert_eq!(coordinator.service.ended(), None);
    std::fs::remove_file(at.join("filler")).unwrap();
    let nats = nats.again().await;
    until("it goes on", 60, async || api.try_get("/v1/status").await.filter(|status| status["role"] == "leader")).await;
    accepted.push(event(&api, "after").await.expect("there is room again"));
    let after = cancelled(&api, "after", "b").await;
    let history = History::read(&nats.client().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    let taken: Vec<&str> = history
        .records()
        .filter_map(|(_, record)| if let Record::EventTaken { id, duplicate: false, .. } = record { Some(id.as_str()) } else { None })
        .collect();
    for id in &accepted {
        assert_eq!(taken.iter().filter(|taken| taken == &id).count(), 1, "event {id} was accepted: {taken:?}");
    }
    for run in [run, after] {
        assert_eq!(api.get(&format!("/v1/runs/{run}")).await["state"], "cancelled");
    }
    assert!(coordinator.service.stop(20).await.success());
}

//! The log is the truth, the projection a copy of it; a log that is not what it was stops the coordinator.

use std::path::Path;

use causey_coordinator::projection::Projection;
use causey_tests::service::Place;
use causey_tests::{Coordinator, History, Nats, Project, Stack, tools};
use serde_json::{Value, json};

use crate::flows::SMALL;

/// What the API says about runs.
async fn look(project: &Project) -> (Value, History) {
    let stack = Stack::start(project).await;
    let found = (stack.api.get("/v1/runs").await, History::read(&stack.nats().await).await);
    assert!(stack.stop().await.success());
    found
}

/// Row 22 of the fault model.
#[tokio::test]
async fn the_same_runs_are_there_after_the_projection_was_deleted_or_damaged() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("small.py", SMALL);
    project.ok(&["run", &flow, "--alpha", "0.25"]).await;
    project.ok(&["run", &flow, "--count", "3"]).await;
    let before = stack.api.get("/v1/runs").await;
    assert_eq!(before["runs"].as_array().map(Vec::len), Some(2));
    assert!(stack.stop().await.success());

    let projection = project.state().join("projection");
    let (hash, sequence) = {
        let (_, state, tail) = Projection::open(&projection).unwrap();
        (state.hash(), tail.sequence)
    };
    assert!(sequence > 0, "the projection was not written when the stack stopped");

    std::fs::remove_dir_all(&projection).unwrap();
    let (runs, history) = look(&project).await;
    assert_eq!(runs, before, "after the projection was deleted");
    // Read only now: while it stops a stack decides that its worker is gone.
    assert_eq!(hash, history.state_at(sequence).hash(), "I9: the projection was not the fold of the log");

    for file in sled_files(&projection) {
        std::fs::write(&file, b"rubbish rubbish rubbish").unwrap();
    }
    assert_eq!(look(&project).await.0, before, "after the projection was damaged");

    let (_, state, _) = Projection::open(&projection).unwrap();
    assert_eq!(state.runs.len(), 2);
    assert_ne!(state.hash(), hash, "each start adds its epoch to the log, and the projection follows");
}

fn sled_files(projection: &Path) -> Vec<std::path::PathBuf> {
    let files: Vec<_> =
        std::fs::read_dir(projection.join("sled")).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    assert!(!files.is_empty());
    files
}

/// Row 22 of the fault model.
#[tokio::test]
async fn a_projection_damaged_at_any_place_is_rebuilt() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place::new(base, "one");
    let (mut first, api) = Coordinator::leading(&nats, base, &place).await;
    for id in ["a", "b", "c"] {
        deploy(&api, id).await;
    }
    let before = api.get("/v1/flows").await;
    assert!(first.service.stop(20).await.success());
    // Reproducible: the places follow from a constant.
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..6 {
        for file in sled_files(&place.projection) {
            let mut bytes = std::fs::read(&file).unwrap();
            if bytes.is_empty() {
                continue;
            }
            for _ in 0..=bytes.len() / 2_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from(random >> 33).unwrap() % bytes.len();
                bytes[at] ^= 0xff;
            }
            if round % 2 == 1 {
                bytes.truncate(bytes.len() / 2);
            }
            std::fs::write(&file, bytes).unwrap();
        }
        let (mut again, api) = Coordinator::leading(&nats, base, &place).await;
        assert_eq!(api.get("/v1/flows").await, before, "round {round}");
        assert!(again.service.stop(20).await.success());
    }
}

/// Deploys a flow that has one step and whose code nobody will run.
pub(crate) async fn deploy(api: &causey_tests::Api, name: &str) -> Value {
    let package = b"no tar";
    let digest = blake3::hash(package).to_hex().to_string();
    let put = api.call(reqwest::Method::PUT, &format!("/v1/packages/{digest}")).body(&package[..]);
    assert!(causey_tests::api::send(put).await.status.is_success());
    let step = |name: &str, next: Value| json!({"name": name, "line": 1, "doc": "", "join": false, "next": next, "retry": null, "catch": null, "resources": null, "host": null});
    let definition = json!({"format": 1, "name": format!("Flow{name}"), "language": "python", "file": "f.py", "package": digest, "doc": "",
        "steps": [step("start", json!({"linear": {"to": "end"}})), step("end", json!("end"))], "parameters": [], "triggers": []});
    let reply = api.post("/v1/flows", &json!({"request_id": format!("deploy-{name}"), "definition": definition})).await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    reply.body
}

/// Row 15 of the fault model.
#[tokio::test]
async fn a_vanished_log_is_refused_by_who_knows_of_it_and_never_taken_for_an_empty_one() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place::new(base, "one");
    let (mut first, api) = Coordinator::leading(&nats, base, &place).await;
    deploy(&api, "a").await;
    assert!(first.service.stop(20).await.success());
    let nats = nats.changed(|folder| std::fs::remove_dir_all(folder).unwrap()).await;

    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert_eq!(status, Some(1));
    for part in ["no Causey streams", "the projection in", "knows a log", "help  ", "restore"] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
    // Without the projection the artifact store still knows.
    std::fs::remove_dir_all(&place.projection).unwrap();
    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert_eq!(status, Some(1));
    assert!(words.contains("the artifact store") && words.contains("knows a log"), "{words}");
}

/// Row 15 of the fault model.
#[tokio::test]
async fn a_deleted_stream_is_named_and_refused() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place::new(base, "one");
    let (mut first, api) = Coordinator::leading(&nats, base, &place).await;
    deploy(&api, "a").await;
    assert!(first.service.stop(20).await.success());
    let client = nats.client().await;
    async_nats::jetstream::new(client).delete_stream("CAUSEY_NOTIFY").await.unwrap();
    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert_eq!(status, Some(1));
    for part in ["CAUSEY_NOTIFY", "missing", "CAUSEY_LOG", "help  "] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
    // Even where nobody else knows of the log: what the other streams hold is not to be forgotten.
    std::fs::remove_dir_all(&place.projection).unwrap();
    std::fs::remove_dir_all(&place.store).unwrap();
    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert!(status == Some(1) && words.contains("CAUSEY_NOTIFY"), "{words}");
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_can_be_repeated() {
    let project = Project::new();
    let base = project.path();
    // What a start leaves that made some of its streams and was killed: no log turn, no projection, no mark in the store.
    let model = Nats::start(&project.file("model")).await;
    let (_first, _) = Coordinator::leading(&model, base, &Place::new(&project.file("model-place"), "first")).await;
    let nats = Nats::start(&project.file("jetstream")).await;
    let (from, to) = (async_nats::jetstream::new(model.client().await), async_nats::jetstream::new(nats.client().await));
    for stream in ["CAUSEY_IN", "CAUSEY_EVENT", "CAUSEY_LOG"] {
        let config = from.get_stream(stream).await.unwrap().cached_info().config.clone();
        to.create_stream(config).await.unwrap();
    }
    let (_again, api) = Coordinator::leading(&nats, base, &Place::new(base, "one")).await;
    deploy(&api, "a").await;
}

/// Row 6 of the fault model.
#[tokio::test]
async fn a_coordinator_killed_at_any_moment_of_its_first_start_starts_again() {
    for moment in 0..12 {
        let project = Project::new();
        let base = project.path();
        let nats = Nats::start(&project.file("jetstream")).await;
        let place = Place::new(base, "one");
        let mut first = Coordinator::start(&nats, base, &place);
        // The stimulus is the moment itself: the first start takes some ten milliseconds.
        tokio::time::sleep(std::time::Duration::from_millis(moment * 6)).await;
        first.service.kill();
        let (_again, api) = Coordinator::leading(&nats, base, &place).await;
        deploy(&api, "a").await;
    }
}

#[tokio::test]
async fn a_private_stack_that_cannot_start_says_why() {
    let project = Project::new();
    let flow = project.flow("small.py", SMALL);
    project.ok(&["run", &flow]).await;
    std::fs::remove_dir_all(project.state().join("nats/jetstream")).unwrap();
    for arguments in [vec!["run", flow.as_str()], vec!["runs"], vec!["dev", "--random-ports"]] {
        project.expect(5, &arguments).await.says(&["knows a log", "restore", "help"]);
    }
    project.is_quiet().await;
}

#[tokio::test]
async fn a_port_taken_between_choosing_and_using_it_is_named_and_the_next_start_takes_another() {
    use std::os::unix::fs::PermissionsExt as _;
    let project = Project::new();
    // In front of the real server: at the first start somebody else takes its port just before it does.
    let listen =
        "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); open(sys.argv[2], 'w'); time.sleep(60)";
    let (mark, script) = (project.state().join("taken"), project.file("nats-server"));
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) exec '{server}' --version;; esac\n\
         if [ ! -e '{mark}' ]; then\n  port=$(sed -n 's/^listen: \"127.0.0.1:\\([0-9]*\\)\"/\\1/p' \"$2\")\n  \
         '{python}' -c \"{listen}\" \"$port\" '{mark}' <&- >&- 2>&- &\n  while [ ! -e '{mark}' ]; do sleep 0.01; done\nfi\n\
         exec '{server}' \"$@\"\n",
        server = tools::nats_server().display(),
        python = tools::python().display(),
        mark = mark.display(),
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let flow = project.flow("small.py", SMALL);
    let arguments = ["run", &flow, "--nats-server", script.to_str().unwrap()];
    project.expect(5, &arguments).await.says(&["nats-server does not start", "address already in use", "help"]);
    assert!(mark.exists(), "nobody took the port");
    let output = project.ok(&arguments).await;
    assert!(output.stdout.contains("alpha=0.5"), "{output:#?}");
}

/// Row 14 of the fault model.
#[tokio::test]
async fn a_stream_that_moved_back_is_refused_with_both_sequences() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place::new(base, "one");
    let (mut first, api) = Coordinator::leading(&nats, base, &place).await;
    deploy(&api, "a").await;
    deploy(&api, "b").await;
    assert!(first.service.stop(20).await.success());
    // The inbox is emptied and begins anew, as after the loss of its file.
    let context = async_nats::jetstream::new(nats.client().await);
    let config = context.get_stream("CAUSEY_IN").await.unwrap().cached_info().config.clone();
    context.delete_stream("CAUSEY_IN").await.unwrap();
    context.create_stream(config).await.unwrap();
    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert_eq!(status, Some(1));
    for part in ["CAUSEY_IN", "moved back", "sequence 0", "help  "] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
}

/// Row 14 of the fault model.
#[tokio::test]
async fn a_broken_chain_is_refused_with_the_place_where_it_breaks() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place::new(base, "one");
    let (mut first, api) = Coordinator::leading(&nats, base, &place).await;
    deploy(&api, "a").await;
    assert!(first.service.stop(20).await.success());
    let client = nats.client().await;
    let context = async_nats::jetstream::new(client.clone());
    let last = context.get_stream("CAUSEY_LOG").await.unwrap().cached_info().state.last_sequence;
    let history = History::read(&client).await;
    // A copy of the last turn behind itself: readable, but it follows another message than it says.
    context.publish("causey.log", history.entries.last().unwrap().payload.clone()).await.unwrap().await.unwrap();
    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert_eq!(status, Some(1));
    assert!(words.contains(&format!("broken at sequence {}", last + 1)) && words.contains("help  "), "{words}");
}

#[tokio::test]
async fn the_store_of_another_log_is_refused() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place::new(base, "one");
    let (mut first, _) = Coordinator::leading(&nats, base, &place).await;
    assert!(first.service.stop(20).await.success());
    let other = Place { store: base.join("another-store"), ..place };
    let (status, words) = Coordinator::start(&nats, base, &other).last_words().await;
    assert_eq!(status, Some(1));
    for part in ["belongs to artifact store", "the configured store is", "help  "] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_by_both_who_want_it() {
    let project = Project::new();
    let base = project.path();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let nats = Nats::start(&project.file("jetstream")).await;
    let place = Place { port, ..Place::new(base, "one") };
    let (status, words) = Coordinator::start(&nats, base, &place).last_words().await;
    assert_eq!(status, Some(1));
    for part in [&format!("failed to listen on 127.0.0.1:{port}"), "--listen"] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
    let output = project.expect(4, &["dev", "--port", &port.to_string()]).await;
    output.says(&[&format!("port {port}"), "CSY-6005", "--random-ports"]);
    project.is_quiet().await;
}

#[tokio::test]
async fn a_second_stack_in_the_same_folder_is_refused_with_the_address_of_the_first() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let output = project.expect(4, &["dev", "--random-ports"]).await;
    output.says(&["running already", "CSY-1204", &stack.api.url, &stack.process().to_string()]);
    project.ok(&["dev", "--stop"]).await;
    project.is_quiet().await;
}

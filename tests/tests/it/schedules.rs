//! Flows that start by the clock, backfills, and one run too many, against the real thing.

use causey_protocol::record::{Cause, Record};
use causey_protocol::schedule::Strategy;
use causey_tests::service::{Place, worker};
use causey_tests::{Api, Coordinator, History, Nats, Project, Role, Stack, until};
use serde_json::{Value, json};

/// A flow of one step that prints the instant it is for, or sleeps until the file is there.
fn flow(decorators: &str, body: &str) -> String {
    format!(
        "import os, time\nfrom causey import FlowSpec, Parameter, concurrency, current, schedule, step\n\n{decorators}\n\
         class Nightly(FlowSpec):\n    day = Parameter('day', default='none')\n    gate = Parameter('gate', default='')\n\n    @step\n    \
         def start(self):\n        {body}\n        self.next(self.end)\n\n    @step\n    def end(self):\n        pass\n"
    )
}

const GATED: &str = "while not os.path.exists(self.gate): time.sleep(0.02)";

async fn runs(api: &Api) -> Vec<Value> {
    let mut runs = api.get("/v1/runs?flow=Nightly&limit=500").await["runs"].as_array().cloned().unwrap_or_default();
    runs.reverse();
    runs
}

fn states(runs: &[Value]) -> Vec<String> {
    runs.iter().map(|run| run["state"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until every run has ended: the log and the announcements can then be compared.
async fn all_ended(api: &Api) {
    for run in runs(api).await {
        api.ended(run["run"].as_str().unwrap(), 40).await;
    }
}

/// The instants of all runs that a history tells of, in the order in which they started.
fn instants(history: &History) -> Vec<u64> {
    let start =
        |record: &Record| if let Record::RunStarted(start) = record { start.cause.instant().map(|instant| instant.0) } else { None };
    history.records().filter_map(|(_, record)| start(record)).collect()
}

fn is_strictly_rising(instants: &[u64]) -> bool {
    instants.windows(2).all(|pair| pair[0] < pair[1])
}

#[tokio::test]
async fn a_deployed_schedule_starts_runs_with_their_instant_until_it_is_paused_or_dropped() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let every_second = "@schedule(cron='* * * * * ? *', timezone='Asia/Tokyo', parameters={'day': 'datetime'})";
    let said = "assert current.trigger is None; print('for', current.scheduled_at.isoformat(), self.day)";
    let path = project.flow("nightly.py", &flow(every_second, said));
    let deployed = project.ok(&["deploy", &path]).await.stdout;
    assert!(deployed.starts_with("Nightly version 1\n  started at * * * * * ? * Asia/Tokyo: 20"), "{deployed}");
    let three = async || Some(runs(&stack.api).await).filter(|runs| runs.len() >= 3);
    let started = until("three firings", 30, three).await;
    for run in &started[..3] {
        assert_eq!(run["cause"]["kind"], "schedule");
        assert!(run["parameters"]["day"].as_str().unwrap().ends_with("+09:00"), "{run}");
        assert_eq!(stack.api.ended(run["run"].as_str().unwrap(), 30).await["state"], "succeeded");
    }
    let output = project.ok(&["logs", started[0]["name"].as_str().unwrap()]).await.stdout;
    assert!(output.contains("for 20") && output.contains("+00:00 20"), "{output}");
    let listed = project.ok(&["schedules", "--json"]).await.json();
    assert_eq!((&listed["flow"], &listed["paused"], listed["next"].is_u64()), (&json!("Nightly"), &Value::Null, true), "{listed}");
    assert!(listed["last"]["name"].is_string(), "{listed}");

    project.ok(&["schedules", "pause", "Nightly"]).await;
    let listed = project.ok(&["schedules", "ls", "--json"]).await.json();
    assert_eq!((&listed["paused"]["user"], &listed["next"]), (&json!("ann"), &Value::Null), "{listed}");
    let paused = runs(&stack.api).await.len();
    // The log goes on, the schedule does not.
    project.ok(&["events", "publish", "anything"]).await;
    assert_eq!(runs(&stack.api).await.len(), paused);
    project.ok(&["schedules", "resume", "Nightly"]).await;
    until("a firing after the pause", 30, async || (runs(&stack.api).await.len() > paused).then_some(())).await;

    let path = project.flow("nightly.py", &flow("", said));
    project.ok(&["deploy", &path]).await;
    project.ok(&["schedules"]).await.says(&["no deployed flow has a schedule"]);
    project.expect(3, &["schedules", "pause", "Nightly"]).await.says(&["CSY-1006"]);
    all_ended(&stack.api).await;
    let history = History::read(&stack.nats().await).await;
    assert!(is_strictly_rising(&instants(&history)));
    assert_eq!(history.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_schedule_that_cannot_be_is_named_with_its_line_before_anything_runs() {
    let project = Project::new();
    let wrong = [
        ("@schedule(cron='0 0 30 2 *')", "cron `0 0 30 2 *` never fires"),
        ("@schedule(cron='0 25 * * *')", "cron `0 25 * * *` is not read"),
        ("@schedule(timezone='Mars/Base')", "time zone `Mars/Base` is unknown"),
        ("@schedule(parameters={'day': '%!'})", "parameter `day` takes the instant as \"%!\""),
    ];
    for (decorator, words) in wrong {
        let path = project.flow("nightly.py", &flow(decorator, "pass"));
        let checked = project.expect(1, &["check", &path]).await.stdout;
        assert!(checked.contains(words) && checked.contains("nightly.py:4: schedule") && checked.contains("CSY-1105"), "{checked}");
        project.expect(2, &["deploy", &path]).await.says(&[words, "nightly.py:4"]);
    }
}

#[tokio::test]
async fn a_takeover_fires_nothing_twice_and_the_next_leader_goes_on() {
    let project = Project::new();
    let base = project.path();
    let nats = Nats::start(&project.file("jetstream")).await;
    let (mut one, leader) = Coordinator::leading(&nats, base, &Place::new(base, "one")).await;
    let mut two = Coordinator::start(&nats, base, &Place::new(base, "two"));
    two.with_role("standby").await;
    let _worker = worker(&nats.url(), base, &Place::new(base, "one").store, "worker");
    let path = project.flow("nightly.py", &flow("@schedule(cron='* * * * * ? *', catch_up='all')", "pass"));
    let deploy = ["deploy", &path, "--url", &leader.url, "--token", &leader.token];
    project.ok(&deploy).await;
    until("firings under the first leader", 30, async || (runs(&leader).await.len() >= 2).then_some(())).await;
    one.service.kill();
    let leader = two.with_role("leader").await;
    let before = runs(&leader).await.len();
    until("firings under the second leader", 30, async || (runs(&leader).await.len() >= before + 3).then_some(())).await;
    let paused = leader.post("/v1/schedules/Nightly/pause", &json!({})).await;
    assert_eq!(paused.status.as_u16(), 200, "{paused:?}");
    all_ended(&leader).await;
    let history = History::read(&nats.client().await).await;
    let instants = instants(&history);
    assert!(instants.windows(2).all(|pair| pair[1] == pair[0] + 1_000_000), "a second is missing or twice: {instants:?}");
    assert_eq!(history.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_backfill_of_ten_days_runs_each_once_two_at_a_time_through_a_crash() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let schedule = "@schedule(cron='0 2 * * *', timezone='Europe/Berlin', parameters={'day': 'date'})";
    project.ok(&["deploy", &project.flow("nightly.py", &flow(schedule, "print('day', self.day)"))]).await;
    let span = ["--from", "2026-03-25", "--to", "2026-04-04", "--max-parallel", "2"];
    let start = [&["backfill", "Nightly", "--id", "b-1", "--json"], &span[..]].concat();
    let answer = project.ok(&start).await.json();
    assert_eq!((&answer["backfill"], &answer["total"]), (&json!("b-1"), &json!(10)), "{answer}");
    let done = async |least: u64| {
        let found = stack.api.try_get("/v1/backfills").await?["backfills"][0].clone();
        (found["done"].as_u64()? >= least).then_some(found)
    };
    until("two days", 40, async || done(2).await).await;
    stack.crash(Role::Coordinator).await;
    // The same request again starts nothing.
    project.ok(&start).await;
    let ended = until("all days", 60, async || done(10).await).await;
    assert_eq!((&ended["state"], &ended["succeeded"], &ended["running"]), (&json!("finished"), &json!(10), &json!(0)), "{ended}");
    let listed = project.ok(&["backfills"]).await.stdout;
    assert!(listed.contains("b-1") && listed.contains("10/10"), "{listed}");
    let runs = runs(&stack.api).await;
    let mut days: Vec<&str> = runs.iter().map(|run| run["parameters"]["day"].as_str().unwrap()).collect();
    // Runs that started in one millisecond are listed in any order.
    days.sort_unstable();
    let expected: Vec<String> = (25..=31).map(|day| format!("2026-03-{day}")).chain((1..=3).map(|day| format!("2026-04-0{day}"))).collect();
    assert_eq!(days, expected);
    let history = History::read(&stack.nats().await).await;
    assert!(is_strictly_rising(&instants(&history)));
    let (mut live, mut most) = (0, 0);
    for (_, record) in history.records() {
        match record {
            Record::RunStarted(start) if matches!(start.cause, Cause::Backfill { .. }) => live += 1,
            Record::RunFinished { .. } => live -= 1,
            _ => {}
        }
        most = most.max(live);
    }
    assert_eq!((live, most), (0, 2));
    assert_eq!(history.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cancelled_backfill_stops_and_one_that_cannot_be_is_refused() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.expect(3, &["backfill", "Nightly", "--from", "2026-01-01", "--to", "2026-01-05"]).await.says(&["CSY-1006", "Nightly"]);
    project.ok(&["deploy", &project.flow("nightly.py", &flow("", GATED))]).await;
    let backfill = |extra: &[&str]| [&["backfill", "Nightly", "--from", "2026-01-01", "--to", "2026-01-05"], extra].concat().join(" ");
    let refused = [
        ("", "does not say how often it runs"),
        ("--every minute", "has 1 fields"),
        ("--every day --timezone Mars/Base", "unknown"),
        ("--every day --to 2026-01-01", "does not fire between"),
        ("--every day --from tomorrow", "no date or time"),
        ("--every day --max-parallel 0", "0 runs at once"),
        ("--every day --parameter-name night", "has no parameter `night`"),
    ];
    for (extra, words) in refused {
        let line = backfill(&[extra]);
        let mut words_of: Vec<&str> = line.split_whitespace().collect();
        // An option that is given twice counts once.
        for option in ["--from", "--to"] {
            if words_of.iter().filter(|word| **word == option).count() > 1 {
                let place = words_of.iter().position(|word| *word == option).unwrap();
                words_of.drain(place..place + 2);
            }
        }
        project.expect(2, &words_of).await.says(&[words]);
    }
    let gate = project.file("gate");
    let line = backfill(&["--every", "day", "--max-parallel", "2", "--json", "--param", &format!("gate={}", gate.display())]);
    let answer = project.ok(&line.split_whitespace().collect::<Vec<_>>()).await.json();
    let id = answer["backfill"].as_str().unwrap();
    until("two days", 30, async || (runs(&stack.api).await.len() == 2).then_some(())).await;
    let cancelled = project.ok(&["backfills", "cancel", id, "--json"]).await.json();
    assert_eq!((&cancelled["state"], &cancelled["cancelled"], &cancelled["total"]), (&json!("cancelled"), &json!(2), &json!(4)));
    assert_eq!(states(&runs(&stack.api).await), ["cancelled", "cancelled"]);
    project.expect(3, &["backfills", "cancel", "nobody"]).await.says(&["CSY-1006"]);
}

/// A deployed flow whose runs end once a file is there.
struct Gated {
    project: Project,
    stack: Stack,
    /// Those that have started, in order.
    started: Vec<String>,
}

impl Gated {
    async fn start(strategy: Strategy) -> Self {
        let project = Project::new();
        let stack = Stack::start(&project).await;
        let decorator = format!("@concurrency(strategy='{}')", strategy.as_str());
        project.ok(&["deploy", &project.flow("nightly.py", &flow(&decorator, GATED))]).await;
        Self { project, stack, started: Vec::new() }
    }

    async fn submit(&mut self, number: u32) -> causey_tests::api::Reply {
        let gate = self.project.file("gate").display().to_string();
        let body = json!({"request_id": format!("r{number}"), "flow": "Nightly", "parameters": {"gate": gate}});
        let reply = self.stack.api.post("/v1/runs", &body).await;
        self.started.extend(reply.body["run"].as_str().map(ToOwned::to_owned));
        reply
    }

    async fn three(&mut self) -> Vec<Value> {
        for number in 1..=3 {
            self.submit(number).await;
        }
        self.runs().await
    }

    async fn runs(&self) -> Vec<Value> {
        let mut runs = Vec::new();
        for run in &self.started {
            runs.push(self.stack.api.get(&format!("/v1/runs/{run}")).await);
        }
        runs
    }

    async fn end(&self) -> Vec<Value> {
        std::fs::write(self.project.file("gate"), "").unwrap();
        all_ended(&self.stack.api).await;
        let history = History::read(&self.stack.nats().await).await;
        assert_eq!(history.violations(), Vec::<String>::new());
        self.runs().await
    }
}

#[tokio::test]
async fn one_too_many_is_skipped_with_its_reason() {
    let mut gated = Gated::start(Strategy::Skip).await;
    assert_eq!(gated.submit(1).await.status.as_u16(), 201);
    let refused = gated.submit(2).await;
    refused.refused(409, "CSY-3002", &["skipped: 1 of at most 1 runs of Nightly under way"]);
    assert_eq!(gated.submit(2).await.body, refused.body);
    assert_eq!(states(&gated.end().await), ["succeeded"]);
}

#[tokio::test]
async fn waiting_runs_say_what_for_and_begin_in_order() {
    let mut gated = Gated::start(Strategy::Queue).await;
    let three = gated.three().await;
    assert_eq!((&states(&three)[1], &states(&three)[2]), (&"pending".to_owned(), &"pending".to_owned()));
    let waits = &three[2]["waits"];
    assert_eq!((&waits["ahead"], &waits["max"], &waits["running"]), (&json!(1), &json!(1), &json!([three[0]["name"]])), "{waits}");
    gated.project.ok(&["cancel", three[1]["name"].as_str().unwrap()]).await;
    gated.stack.crash(Role::Coordinator).await;
    let ended = gated.end().await;
    assert_eq!(states(&ended), ["succeeded", "cancelled", "succeeded"]);
    assert!(ended[2]["started"].as_u64() > ended[0]["finished"].as_u64());
}

#[tokio::test]
async fn a_newer_run_replaces_the_one_under_way() {
    let mut gated = Gated::start(Strategy::Replace).await;
    let three = gated.three().await;
    assert_eq!(states(&three)[..2], ["cancelled", "cancelled"]);
    assert!(three[0]["problem"]["message"].as_str().unwrap().contains("a newer run has replaced it"));
    assert_eq!(states(&gated.end().await), ["cancelled", "cancelled", "succeeded"]);
}

#[tokio::test]
async fn of_waiting_runs_the_newest_is_kept() {
    let mut gated = Gated::start(Strategy::Latest).await;
    let three = gated.three().await;
    assert_eq!((&states(&three)[1], &states(&three)[2]), (&"cancelled".to_owned(), &"pending".to_owned()));
    assert_eq!(states(&gated.end().await), ["succeeded", "cancelled", "succeeded"]);
}

//! A run of the marked flow whose coordinators, workers or servers a test kills while it goes on, and what must hold at its end.

use std::path::{Path, PathBuf};

use async_nats::Client;
use causey_protocol::record::Topic;
use causey_tests::history::accepted;
use causey_tests::wait::until_true;
use causey_tests::{Api, History, Project};
use serde_json::json;

use crate::cancel::done;
use crate::flows::MARKED;

pub(crate) struct Marked {
    pub(crate) marks: PathBuf,
    pub(crate) run: String,
    items: u32,
}

impl Marked {
    /// Deploys the flow and starts it with a foreach over `items`.
    pub(crate) async fn start(project: &Project, api: &Api, items: u32) -> Self {
        Self::start_with(project, api, items, 0.1).await
    }

    /// With items that take so many seconds.
    pub(crate) async fn start_with(project: &Project, api: &Api, items: u32, seconds: f64) -> Self {
        let flow = project.flow("marked.py", MARKED);
        project.ok(&["deploy", &flow, "--url", &api.url, "--token", &api.token]).await;
        Self::submit(project, api, ("marked-1", "marks"), items, seconds).await
    }

    /// Starts the deployed flow once more.
    pub(crate) async fn start_again(project: &Project, api: &Api, items: u32) -> Self {
        Self::submit(project, api, ("marked-2", "marks-again"), items, 0.1).await
    }

    async fn submit(project: &Project, api: &Api, (request, marks): (&str, &str), items: u32, seconds: f64) -> Self {
        let marks = project.file(marks);
        std::fs::create_dir_all(&marks).unwrap();
        let parameters = json!({"marks": marks, "items": items, "seconds": seconds});
        let reply = api.post("/v1/runs", &json!({"request_id": request, "flow": "Marked", "parameters": parameters})).await;
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
        Self { marks, run: reply.body["name"].as_str().unwrap().to_owned(), items }
    }

    pub(crate) async fn come_to(&self, count: usize) {
        until_true(&format!("{count} tasks are done"), 60, || done(&self.marks) >= count).await;
    }

    /// Everything that must hold at the end, as a standby or a leader tells it.
    pub(crate) async fn ends_well(&self, api: &Api, client: &Client, store: &Path) -> History {
        let ended = api.ended(&self.run, 90).await;
        assert_eq!((&ended["state"], &ended["tasks"]["succeeded"]), (&json!("succeeded"), &json!(self.items + 3)), "{ended}");
        let expected: u32 = (0..self.items).map(|number| number * number).sum();
        assert_eq!(api.get("/v1/models/squares/1/content").await, json!({"total": expected}));
        let history = History::read(client).await;
        assert_eq!(history.violations(), Vec::<String>::new());
        assert_eq!(history.store_violations(store).unwrap(), Vec::<String>::new());
        let results: usize = history.records().map(|(_, record)| accepted(record).len()).sum();
        assert_eq!(results, self.items as usize + 3, "one accepted result per task");
        assert_eq!(history.announced(Topic::ModelPublished).len(), 1);
        history
    }
}

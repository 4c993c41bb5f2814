//! Resume: a new run that takes the results of an earlier one as far as they hold. What holds follows from that run, which has ended, and from
//! the flow; the engine is told.

use std::sync::Arc;

use axum::extract::State;
use causey_engine::{Run, resumption};
use causey_protocol::flow::{Definition, Flow};
use causey_protocol::id::{RequestId, StepName};
use causey_protocol::input::{Request, Resume};
use causey_protocol::parameter::Values;
use causey_protocol::policy::HostMode;
use causey_protocol::problem::{Code, Problem};
use serde::Deserialize;
use serde_json::{Value, json};

use super::context::Context;
use super::extract::{Body, Named, Reply};
use super::refusal::Refusal;
use super::runs::{check_tags, checked, started};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resumed {
    request_id: Option<RequestId>,
    /// The step from which on everything runs again.
    step: Option<StepName>,
    /// The flow as it is now; without it, as it was.
    definition: Option<Definition>,
    parameters: Option<Values>,
    user: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    host: Option<HostMode>,
    timeout_seconds: Option<f64>,
}

impl Resumed {
    /// A run that goes on where the results of the earlier one end, in all else like it.
    pub(super) fn as_it_was(request_id: RequestId, user: Option<String>) -> Self {
        Self { request_id: Some(request_id), user, ..Self::default() }
    }
}

pub(super) async fn resume(
    State(context): State<Context>,
    Named(run): Named<String>,
    Body(given): Body<Resumed>,
) -> Result<Reply<Value>, Refusal> {
    resumed(&context, &run, given).await
}

/// Asks for a run that resumes `run`, and answers with its name.
pub(super) async fn resumed(context: &Context, run: &str, given: Resumed) -> Result<Reply<Value>, Refusal> {
    check_tags(&given.tags)?;
    if given.parameters.is_some_and(|values| !values.is_empty()) {
        let problem = Problem::new(Code::NOT_RESUMABLE, "a resumed run has the parameters of the earlier one; they cannot be changed");
        return Err(problem.hint("start a new run for other parameters: causey run FLOW").into());
    }
    let mended = match given.definition {
        Some(definition) => Some(checked(context, definition).await?),
        None => None,
    };
    let as_it_was = mended.is_none();
    let look = |_: u64, run: &Run, before: &Arc<Flow>| {
        let flow = mended.unwrap_or_else(|| (**before).clone());
        let (start, was) = (&run.start, before.definition());
        Ok::<_, Problem>(Resume {
            earlier: resumption(run, before, &flow, given.step.as_ref())?,
            version: start.version.filter(|_| flow.digest() == start.definition),
            parameters: kept(&start.parameters, &flow),
            tags: given.tags,
            host: given.host.or(start.host),
            // What the flow says of these may have been mended too.
            timeout_seconds: given.timeout_seconds.or(start.timeout_seconds.filter(|asked| was.timeout_seconds != Some(*asked))),
            standing: start.standing.beyond(was.standing),
            flow,
        })
    };
    let wish = context.with_run(run, look).await??;
    if as_it_was {
        checked(context, wish.flow.definition().clone()).await?;
    }
    let taken = wish.earlier.clone();
    let reused: Vec<&StepName> =
        wish.flow.definition().steps.iter().map(|step| &step.name).filter(|step| !taken.again.contains_key(*step)).collect();
    let told = json!({"run": taken.run, "name": taken.name, "step": taken.step, "reused": reused, "again": taken.again});
    let request = Request::Resume(Box::new(wish));
    let mut reply = started(context, given.request_id, &given.user.unwrap_or_default(), request).await?;
    reply.body["resumed"] = told;
    Ok(reply)
}

/// The parameters that the flow still has; new ones get their defaults.
fn kept(parameters: &Values, flow: &Flow) -> Values {
    let has = |name: &String| flow.definition().parameters.iter().any(|parameter| parameter.name == *name);
    parameters.iter().filter(|(name, _)| has(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

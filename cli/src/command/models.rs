//! `causey models`: what flows have published.

use serde_json::Value;

use crate::arguments::{Models, ModelsLs, ModelsShow};
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::screen::format::moment;
use crate::screen::live::{print_json, print_text};
use crate::screen::table;
use crate::session::with_server;

/// Runs the command.
///
/// # Errors
/// When there is no such model, or the server cannot be reached.
pub(crate) async fn run(command: &Models) -> Result<Exit, Fault> {
    match command {
        Models::Ls(arguments) => list(arguments).await,
        Models::Show(arguments) => show(arguments).await,
    }
}

async fn list(arguments: &ModelsLs) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let answer: Value = session.client.get(&["models"], &[]).await?;
        let models = answer["models"].as_array().map(Vec::as_slice).unwrap_or_default();
        if arguments.json {
            models.iter().for_each(print_json);
        } else if models.is_empty() {
            eprintln!("no models yet");
        } else {
            print_text(&(table::lines(&rows(models)).join("\n") + "\n"));
        }
        Ok(Exit::Ok)
    })
    .await
}

async fn show(arguments: &ModelsShow) -> Result<Exit, Fault> {
    let (name, version) = parse(&arguments.model)?;
    with_server(&arguments.place, async |session| {
        let path: Vec<&str> = ["models", name].into_iter().chain(version).collect();
        let answer: Value = session.client.get(&path, &[]).await?;
        if arguments.json {
            print_json(&answer);
            return Ok(Exit::Ok);
        }
        match answer["versions"].as_array() {
            Some(versions) => print_text(&(table::lines(&rows(versions)).join("\n") + "\n")),
            None => print_text(&text(&answer)),
        }
        Ok(Exit::Ok)
    })
    .await
}

fn parse(model: &str) -> Result<(&str, Option<&str>), Fault> {
    let (name, version) = model.split_once('@').map_or((model, None), |(name, version)| (name, Some(version)));
    let known = version.is_none_or(|version| version == "latest" || version.parse::<u32>().is_ok());
    if !name.is_empty() && known {
        return Ok((name, version));
    }
    Err(Fault::new(Exit::Usage, fault::ARGUMENT, format!("{model:?} is no model")).hint("a model looks like NAME, NAME@3 or NAME@latest"))
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn metrics(model: &Value) -> String {
    let metrics = model["metrics"].as_object().into_iter().flatten();
    metrics.map(|(name, value)| format!("{name}={}", word(value))).collect::<Vec<_>>().join(" ")
}

/// Models, or versions of one. A list may nest the newest version or be flat.
fn rows(models: &[Value]) -> Vec<Vec<String>> {
    let heading = ["MODEL", "VERSION", "FORMAT", "RUN", "PUBLISHED", "METRICS"].map(str::to_owned).to_vec();
    let row = |model: &Value| {
        let newest = if model["latest"].is_object() { &model["latest"] } else { model };
        let version = if newest["version"].is_null() { &model["latest"] } else { &newest["version"] };
        let published = newest["published"].as_u64().map(moment).unwrap_or_default();
        let name = if model["name"].is_null() { &newest["name"] } else { &model["name"] };
        vec![word(name), word(version), word(&newest["format"]), word(&newest["run_name"]), published, metrics(newest)]
    };
    std::iter::once(heading).chain(models.iter().map(row)).collect()
}

fn text(model: &Value) -> String {
    let object = &model["object"];
    let fields = [
        ("format", word(&model["format"])),
        ("made by", format!("{}/{} ({})", word(&model["run_name"]), word(&model["step"]), word(&model["flow"]))),
        ("published", model["published"].as_u64().map(moment).unwrap_or_default()),
        ("metrics", metrics(model)),
        (
            "tags",
            model["tags"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| format!("{name}={}", word(value)))
                .collect::<Vec<_>>()
                .join(" "),
        ),
        ("about", word(&model["description"])),
        ("digest", word(&object["digest"])),
    ];
    let lines = fields.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("  {name:9}  {value}\n"));
    format!("{}@{}\n{}", word(&model["name"]), word(&model["version"]), lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_model_may_carry_its_version() {
        assert_eq!(parse("demand").unwrap(), ("demand", None));
        assert_eq!(parse("demand@3").unwrap(), ("demand", Some("3")));
        assert_eq!(parse("demand@latest").unwrap(), ("demand", Some("latest")));
        assert!(parse("demand@best").is_err() && parse("@1").is_err());
    }

    #[test]
    fn a_version_is_shown_with_its_origin_and_metrics() {
        let model = json!({"name": "demand", "version": 3, "format": "skops", "run_name": "brisk-otter-41", "flow": "Train", "step": "train",
            "metrics": {"mape": 0.1}, "tags": {}, "description": "", "object": {"digest": "ab"}});
        assert_eq!(
            text(&model),
            "demand@3\n  format     skops\n  made by    brisk-otter-41/train (Train)\n  metrics    mape=0.1\n  digest     ab\n"
        );
        assert_eq!(rows(&[model])[1], ["demand", "3", "skops", "brisk-otter-41", "", "mape=0.1"]);
    }
}

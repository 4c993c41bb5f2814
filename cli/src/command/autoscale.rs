//! `causey worker --autoscale`: what keeps as many workers of a pool as are wanted, for whoever runs them. The files of `deploy/` with the
//! pool and the options that were given filled in. Pure.

use causey_worker::config::Config;
use causey_worker::equipment::GpuChoice;

use crate::arguments::Autoscale;

const SYSTEMD: &str = include_str!("../../../deploy/systemd/causey-worker.service");
const KUBERNETES: &str = include_str!("../../../deploy/kubernetes/worker.yaml");

/// What stands in both files where a pool's name belongs.
const POOL: &str = "example-pool";

/// The unit or the manifest for workers like this one.
pub(crate) fn text(config: &Config, kind: Autoscale) -> String {
    let pool = config.pool.as_str();
    match kind {
        Autoscale::Systemd => {
            let told = [
                format!("--pool={pool}"),
                format!("--name={}", config.name),
                format!("--store={}", config.store),
                format!("--folder={}", config.folder.display()),
            ];
            let words: Vec<String> = told.into_iter().chain(options(config)).map(|word| systemd_word(&word)).collect();
            let line = |line: &str| match line.strip_prefix("ExecStart=") {
                Some(_) => format!("ExecStart=/usr/local/bin/causey worker {}\n", words.join(" ")),
                None => format!("{}\n", line.replace(POOL, pool)),
            };
            SYSTEMD.lines().map(line).collect()
        }
        Autoscale::Kubernetes => {
            let mut text = String::new();
            for line in KUBERNETES.lines() {
                let indent: String = line.chars().take_while(|c| *c == ' ').collect();
                match line.trim() {
                    "- \"--pool=example-pool\"" => text += &format!("{indent}- {}\n", yaml_word(&format!("--pool={pool}"))),
                    "- \"--store=s3://bucket/causey\"" => {
                        let store = format!("--store={}", config.store);
                        for word in [store].into_iter().chain(options(config)) {
                            text += &format!("{indent}- {}\n", yaml_word(&word));
                        }
                    }
                    word if word.starts_with("url: ") => text += &format!("{}\n", line.replace(POOL, pool)),
                    _ => text += &format!("{}\n", line.replace(POOL, &object_name(pool))),
                }
            }
            text
        }
    }
}

/// What was said of the workers, as options again.
fn options(config: &Config) -> Vec<String> {
    let said = &config.equipment;
    let mut options = Vec::new();
    options.extend(config.slots.map(|slots| format!("--slots={slots}")));
    options.extend(said.cpu.map(|cores| format!("--cpu={cores}")));
    options.extend(said.memory.map(|memory| format!("--memory={memory}")));
    options.extend(said.disk.map(|disk| format!("--disk={disk}")));
    options.extend(said.labels.iter().map(|(name, value)| format!("--label={name}={value}")));
    options.extend(said.resources.iter().map(|(name, there)| format!("--resource={name}={there}")));
    match &said.gpu {
        GpuChoice::Auto => {}
        GpuChoice::None => options.push("--gpu=none".into()),
        GpuChoice::Listed(uuids) => options.push(format!("--gpu={}", uuids.join(","))),
    }
    options.extend(config.max_tasks.map(|tasks| format!("--max-tasks={tasks}")));
    options.extend(config.exit_when_idle.map(|seconds| format!("--exit-when-idle={seconds}")));
    options
}

/// A name that Kubernetes takes: small letters, digits and dashes, none at the ends.
fn object_name(pool: &str) -> String {
    pool.to_lowercase().replace('_', "-").trim_matches('-').to_owned()
}

fn systemd_word(word: &str) -> String {
    let word = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{word}\"")
}

/// JSON is YAML. The kubelet replaces `$(NAME)`.
fn yaml_word(word: &str) -> String {
    serde_json::Value::from(word.replace("$(", "$$(")).to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::{Causey, Command};

    fn config(options: &[&str]) -> Config {
        let words = ["causey", "worker", "--store", "s3://models/causey", "--folder", "/work"];
        match Causey::parse_from(words.iter().chain(options)).command {
            Command::Worker(worker) => worker.config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_unit_runs_a_worker_with_the_same_options() {
        let config = config(&["--pool", "gpu", "--name", "one", "--slots", "2", "--label", "zone=50% \"a\"", "--exit-when-idle", "60"]);
        let text = text(&config, Autoscale::Systemd);
        let expected = r#"ExecStart=/usr/local/bin/causey worker "--pool=gpu" "--name=one" "--store=s3://models/causey" "--folder=/work" "--slots=2" "--label=zone=50%% \"a\"" "--exit-when-idle=60""#;
        assert!(text.lines().any(|line| line == expected), "{text}");
        assert!(text.contains("Description=Causey worker of pool gpu\n") && !text.contains(POOL));
    }

    #[test]
    fn a_manifest_scales_the_pool_by_its_demand() {
        let text = text(&config(&["--pool", "GPU_big", "--resource", "accelerator=1.5", "--gpu", "none"]), Autoscale::Kubernetes);
        for line in [
            "  name: causey-worker-gpu-big",
            "            - \"--pool=GPU_big\"",
            "            - \"--store=s3://models/causey\"",
            "            - \"--resource=accelerator=1.5\"",
            "            - \"--gpu=none\"",
            "        url: http://causey-coordinator:4780/v1/pools/GPU_big/demand",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in {text}");
        }
        assert!(!text.contains(POOL));
    }
}

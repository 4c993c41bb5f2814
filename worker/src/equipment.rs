//! What a worker offers beside slots: as its operator says, else as the machine shows it. Memory that is found is rounded down, so that
//! machines of one kind look alike.

use std::collections::BTreeMap;
use std::path::Path;

use causey_protocol::resources::{Equipment, LABELS_MAX, is_label, thousandths};

use crate::gpu::Gpus;

/// Found memory is a multiple of this, in MB.
const MEMORY_STEP_MB: u64 = 64;

const MEGABYTE: u64 = 1024 * 1024;

/// Which GPUs a worker offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GpuChoice {
    /// All there are.
    #[default]
    Auto,
    None,
    /// Those with these UUIDs.
    Listed(Vec<String>),
}

impl std::str::FromStr for GpuChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            listed => {
                let uuids: Vec<String> = listed.split(',').map(str::to_owned).collect();
                if uuids.iter().all(|uuid| uuid.starts_with("GPU-") || uuid.starts_with("MIG-")) {
                    Ok(Self::Listed(uuids))
                } else {
                    Err("is neither auto nor none nor a list of UUIDs such as GPU-8a5c…,GPU-11f2…".into())
                }
            }
        }
    }
}

/// What its operator says of a worker.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Said {
    /// Cores offered (default: one per slot)
    #[arg(long, env = "CAUSEY_CPU", value_name = "CORES", value_parser = cores)]
    pub cpu: Option<f64>,

    /// Memory offered, in MB (default: what the machine, or its control group, has)
    #[arg(long, env = "CAUSEY_MEMORY", value_name = "MB")]
    pub memory: Option<u64>,

    /// Disk offered, in MB (default: what is free below --folder)
    #[arg(long, env = "CAUSEY_DISK", value_name = "MB")]
    pub disk: Option<u64>,

    /// A label that steps may ask for with @resources(labels=…); may be repeated
    #[arg(long = "label", env = "CAUSEY_LABELS", value_name = "NAME=VALUE", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,

    /// A quantity of something that steps may ask for with @resources(custom=…); may be repeated
    #[arg(long = "resource", env = "CAUSEY_RESOURCES", value_name = "NAME=NUMBER", value_delimiter = ',', value_parser = custom)]
    pub resources: Vec<(String, f64)>,

    /// GPUs offered: auto, none, or UUIDs separated by commas
    #[arg(long, env = "CAUSEY_GPU", value_name = "WHICH", default_value = "auto")]
    pub gpu: GpuChoice,
}

fn cores(text: &str) -> Result<f64, String> {
    number(text).filter(|cores| *cores <= 1_024.0).ok_or_else(|| "is not a number above 0 and up to 1024".into())
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0)
}

fn pair(text: &str) -> Result<(String, &str), String> {
    let (name, value) = text.split_once('=').ok_or("is not NAME=VALUE")?;
    if is_label(name) && is_label(value) {
        Ok((name.to_owned(), value))
    } else {
        Err("has a name or a value of no or too many bytes".into())
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    pair(text).map(|(name, value)| (name, value.to_owned()))
}

fn custom(text: &str) -> Result<(String, f64), String> {
    let (name, value) = pair(text)?;
    let number = number(value).filter(|number| *number <= 1e9).ok_or_else(|| format!("{value:?} is not a number above 0"))?;
    Ok((name, number))
}

impl Said {
    /// What the worker offers, with what the machine shows where nothing is said.
    ///
    /// # Errors
    /// When there is more than can be offered, or a GPU that is named is not there.
    pub(crate) fn equipment(&self, folder: &Path, gpus: &Gpus) -> anyhow::Result<Equipment> {
        let labels: BTreeMap<String, String> = self.labels.iter().cloned().collect();
        let custom: BTreeMap<String, u64> = self.resources.iter().map(|(name, there)| (name.clone(), thousandths(*there))).collect();
        anyhow::ensure!(
            labels.len() <= LABELS_MAX && custom.len() <= LABELS_MAX,
            "a worker has at most {LABELS_MAX} labels and as many resources"
        );
        let found = || gpus.list();
        let gpus = match &self.gpu {
            GpuChoice::None => Vec::new(),
            GpuChoice::Auto => found(),
            GpuChoice::Listed(uuids) => {
                let found = found();
                if let Some(missing) = uuids.iter().find(|uuid| !found.iter().any(|gpu| gpu.uuid == **uuid)) {
                    let there: Vec<&str> = found.iter().map(|gpu| gpu.uuid.as_str()).collect();
                    anyhow::bail!("there is no GPU {missing} on this machine; there are: {}", there.join(", "));
                }
                found.into_iter().filter(|gpu| uuids.contains(&gpu.uuid)).collect()
            }
        };
        let disk_mb = self.disk.unwrap_or_else(|| free_disk_mb(folder));
        let shared_memory_mb = free_disk_mb(Path::new("/dev/shm"));
        Ok(Equipment { cpu: self.cpu.map(thousandths), disk_mb, shared_memory_mb, gpus, labels, custom })
    }

    /// Memory offered, in MB.
    pub(crate) fn memory_mb(&self) -> u64 {
        self.memory.unwrap_or_else(memory_mb)
    }
}

/// Space that is free where a folder is, in MB; 0 when the system does not say.
fn free_disk_mb(folder: &Path) -> u64 {
    let free = rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    rounded(free / MEGABYTE)
}

fn rounded(megabytes: u64) -> u64 {
    megabytes - megabytes % MEMORY_STEP_MB
}

/// The memory of this machine, or what its control group allows, in MB; 0 when the system does not say.
fn memory_mb() -> u64 {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let machine = total_mb(&read("/proc/meminfo"));
    let limit = read("/sys/fs/cgroup/memory.max").trim().parse::<u64>().ok().map(|bytes| bytes / MEGABYTE);
    rounded(limit.map_or(machine, |limit| limit.min(machine)))
}

fn total_mb(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|line| line.trim().strip_suffix("kB")).and_then(|number| number.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        said: Said,
    }

    fn said(words: &[&str]) -> Result<Said, String> {
        let words = std::iter::once(&"worker").chain(words);
        Words::try_parse_from(words).map(|words| words.said).map_err(|error| error.to_string())
    }

    #[test]
    fn what_an_operator_says_is_offered() {
        let said =
            said(&["--cpu", "2.5", "--label", "zone=b", "--label", "disk=nvme", "--resource", "licence=1.5", "--gpu", "none"]).unwrap();
        let equipment = said.equipment(Path::new("/"), &Gpus::default()).unwrap();
        assert_eq!((equipment.cpu, equipment.custom["licence"]), (Some(2_500), 1_500));
        assert_eq!(equipment.labels["disk"], "nvme");
        assert!(equipment.gpus.is_empty() && equipment.disk_mb > 0);
        assert!(said.memory_mb() > 0);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [["--label", "zone"], ["--resource", "licence=none"], ["--gpu", "0,1"], ["--cpu", "0"]] {
            assert!(said(&words).is_err(), "{words:?}");
        }
        let listed = said(&["--gpu", "GPU-1,MIG-2"]).unwrap();
        assert!(listed.equipment(Path::new("/"), &Gpus::default()).unwrap_err().to_string().contains("no GPU GPU-1"));
    }

    #[test]
    fn the_memory_of_the_machine_is_read_in_megabytes() {
        assert_eq!(total_mb("MemTotal:       16384000 kB\nMemFree: 1 kB\n"), 16_000);
        assert_eq!(total_mb(""), 0);
        assert_eq!(rounded(16_001), 16_000);
    }
}

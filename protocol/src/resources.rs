//! What a task needs of a worker, what a worker has, and whether the one fits the other. Quantities that are compared are whole numbers:
//! memory in MB, cores and custom resources in thousandths. It knows neither pools' queues nor what is in use at present.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::PoolName;
use crate::policy::TIMEOUT_SECONDS_MAX;

/// Most cores, GPUs or units of a custom resource that a task may ask for.
pub const QUANTITY_MAX: f64 = 1_024.0;

/// Most MB of memory or disk that a task may ask for (1 PiB).
pub const MEGABYTES_MAX: u64 = 1 << 30;

/// Most labels, and most custom resources, of a step or a worker.
pub const LABELS_MAX: usize = 32;

/// Longest name or value of one, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;

/// Most GPUs of one worker.
pub const GPUS_MAX: usize = 64;

/// Most distinct shapes that are told apart among the workers of a pool; of more, the largest count.
pub const SHAPES_MAX: usize = 32;

/// How long a task waits for a place in its pool before it may go to the other one, in seconds, when its step says nothing.
pub const SPILL_SECONDS_DEFAULT: f64 = 30.0;

/// A quantity in thousandths.
#[must_use]
pub fn thousandths(quantity: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
    let whole = (quantity * 1_000.0).round() as u64;
    whole
}

/// A quantity of thousandths as people write it.
#[must_use]
pub fn quantity(thousandths: u64) -> String {
    let (whole, rest) = (thousandths / 1_000, thousandths % 1_000);
    if rest == 0 { whole.to_string() } else { format!("{whole}.{rest:03}").trim_end_matches('0').to_owned() }
}

fn one() -> f64 {
    1.0
}

/// What a task needs of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Cores. Where no worker has that many, the task takes all of a worker.
    #[serde(default = "one")]
    pub cpu: f64,
    #[serde(default)]
    pub memory_mb: Option<u64>,
    /// GPUs: a whole number, or a share of one below 1.
    #[serde(default)]
    pub gpu: f64,
    /// Ask for this pool and no other.
    #[serde(default)]
    pub pool: Option<PoolName>,
    /// Words that the model of each GPU must have in its name, small letters or large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_model: Option<String>,
    /// Memory of each GPU; of a share of one, the share's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_mb: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_memory_mb: Option<u64>,
    /// Labels that the worker must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Quantities of what workers offer by names of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, f64>,
    /// The pool to go to when `pool` has no place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<Spill>,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu: 1.0,
            memory_mb: None,
            gpu: 0.0,
            pool: None,
            gpu_model: None,
            gpu_memory_mb: None,
            disk_mb: None,
            shared_memory_mb: None,
            labels: BTreeMap::new(),
            custom: BTreeMap::new(),
            spill: None,
        }
    }
}

/// Where a task goes that finds no place in its own pool, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spill {
    pub pool: PoolName,
    /// How long it waits for a place first, in seconds. `None`: [`SPILL_SECONDS_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_seconds: Option<f64>,
}

/// Something that no worker has, or not enough of: `gpu≥1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lack(pub String);

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Resources {
    /// Whether nothing is asked for but cores: slots say all about it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let none = [self.memory_mb, self.gpu_memory_mb, self.disk_mb, self.shared_memory_mb].iter().all(Option::is_none);
        none && self.gpu == 0.0 && self.gpu_model.is_none() && self.labels.is_empty() && self.custom.is_empty()
    }

    /// GPUs, whole ones counted and a share as one of them.
    #[must_use]
    pub fn gpus(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be between 0 and 1024")]
        let gpus = self.gpu.ceil() as usize;
        gpus
    }

    /// The share of each of its GPUs, in thousandths.
    #[must_use]
    pub fn gpu_share(&self) -> u64 {
        thousandths(self.gpu).min(1_000)
    }

    /// Why these make no sense, in words; `None` when they do.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let fits = |number: f64, least: f64| number.is_finite() && number >= least && number <= QUANTITY_MAX;
        if !fits(self.cpu, 0.001) || !fits(self.gpu, 0.0) {
            return Some("asks for an impossible amount of cpu or gpu".into());
        }
        if self.gpu > 1.0 && self.gpu.fract() != 0.0 {
            return Some(format!("asks for {} GPUs: ask for whole ones, or for a share of one below 1", self.gpu));
        }
        if self.gpu == 0.0 && (self.gpu_model.is_some() || self.gpu_memory_mb.is_some()) {
            return Some("says which GPU it wants, and asks for none; add gpu=1".into());
        }
        let megabytes = [
            ("memory", self.memory_mb),
            ("gpu_memory", self.gpu_memory_mb),
            ("disk", self.disk_mb),
            ("shared_memory", self.shared_memory_mb),
        ];
        if let Some((name, Some(wanted))) = megabytes.iter().find(|(_, wanted)| wanted.is_some_and(|wanted| wanted > MEGABYTES_MAX)) {
            return Some(format!("asks for {name}={wanted}, which are more MB than there can be"));
        }
        if self.labels.len() > LABELS_MAX || self.custom.len() > LABELS_MAX {
            return Some(format!("asks for more than {LABELS_MAX} labels or custom resources"));
        }
        let texts = self.labels.iter().flat_map(|(name, value)| [name, value]).chain(self.custom.keys()).chain(&self.gpu_model);
        if let Some(text) = texts.into_iter().find(|text| !is_label(text)) {
            let shown: String = text.chars().take(100).collect();
            return Some(format!(
                "asks for {shown:?}: a label, resource or model has 1 to {LABEL_BYTES_MAX} bytes and no control characters"
            ));
        }
        if let Some((name, wanted)) = self.custom.iter().find(|(_, wanted)| !fits(**wanted, 0.001)) {
            return Some(format!("asks for {name}={wanted}, which is not more than 0 and at most {QUANTITY_MAX}"));
        }
        let spill = self.spill.as_ref()?;
        let Some(pool) = &self.pool else {
            return Some(format!("may spill to pool `{}`, and names no pool to leave; add pool=", spill.pool));
        };
        if *pool == spill.pool {
            return Some(format!("may spill from pool `{pool}` to the same pool"));
        }
        let after = spill.after_seconds.unwrap_or(SPILL_SECONDS_DEFAULT);
        let fits = after.is_finite() && (1.0..=TIMEOUT_SECONDS_MAX).contains(&after);
        (!fits).then(|| format!("spills after {after} seconds, which are not between 1 and {TIMEOUT_SECONDS_MAX}"))
    }

    /// What a worker of this shape does not have, whatever is in use.
    #[must_use]
    pub fn lacks(&self, language: &str, shape: &Shape) -> Vec<Lack> {
        let mut lacks = Vec::new();
        let mut need = |there: bool, what: &dyn Fn() -> String| {
            if !there {
                lacks.push(Lack(what()));
            }
        };
        let megabytes = [
            ("memory", self.memory_mb, shape.memory_mb),
            ("disk", self.disk_mb, shape.disk_mb),
            ("shared_memory", self.shared_memory_mb, shape.shared_memory_mb),
        ];
        for (name, wanted, there) in megabytes {
            need(wanted.is_none_or(|wanted| wanted <= there), &|| format!("{name}≥{} MB", wanted.unwrap_or_default()));
        }
        if self.gpu > 0.0 {
            let counted: usize =
                shape.gpus.iter().filter(|kind| self.takes_gpu(&kind.model, kind.memory_mb)).map(|kind| kind.count as usize).sum();
            need(counted >= self.gpus(), &|| self.gpu_words());
        }
        for (name, value) in &self.labels {
            need(shape.labels.get(name) == Some(value), &|| format!("label {name}={value}"));
        }
        for (name, wanted) in &self.custom {
            let there = shape.custom.get(name).copied().unwrap_or_default();
            need(thousandths(*wanted) <= there, &|| format!("{name}≥{wanted}"));
        }
        // A worker of which no languages are known runs whatever it is given.
        let speaks = shape.languages.is_empty() || shape.languages.iter().any(|spoken| spoken == language);
        need(speaks, &|| format!("language {language}"));
        lacks
    }

    /// Whether a GPU is one of those asked for.
    #[must_use]
    pub fn takes_gpu(&self, model: &str, memory_mb: u64) -> bool {
        let name = model.to_lowercase();
        let words = |wanted: &String| wanted.split_whitespace().all(|word| name.contains(&word.to_lowercase()));
        self.gpu_model.as_ref().is_none_or(words) && self.gpu_memory_mb.is_none_or(|wanted| wanted <= memory_mb)
    }

    fn gpu_words(&self) -> String {
        let model = self.gpu_model.as_ref().map(|model| format!(" {model}")).unwrap_or_default();
        let memory = self.gpu_memory_mb.map(|memory| format!(" with {memory} MB")).unwrap_or_default();
        format!("gpu≥{}{model}{memory}", self.gpu)
    }

    /// How many such tasks a worker of this shape holds at once; `slots` are those one of them occupies.
    #[must_use]
    pub fn places(&self, language: &str, slots: u32, shape: &Shape) -> u32 {
        if !self.lacks(language, shape).is_empty() {
            return 0;
        }
        let total = shape.slots.max(1);
        let mut places = u64::from(total / slots.clamp(1, total));
        let mut bound = |there: u64, wanted: u64| places = places.min(there.checked_div(wanted).unwrap_or(u64::MAX));
        for (wanted, there) in
            [(self.memory_mb, shape.memory_mb), (self.disk_mb, shape.disk_mb), (self.shared_memory_mb, shape.shared_memory_mb)]
        {
            bound(there, wanted.unwrap_or_default());
        }
        for (name, wanted) in &self.custom {
            bound(shape.custom.get(name).copied().unwrap_or_default(), thousandths(*wanted));
        }
        if self.gpu > 0.0 {
            let kinds = shape.gpus.iter().filter(|kind| self.takes_gpu(&kind.model, kind.memory_mb));
            let gpus: u64 = kinds.map(|kind| u64::from(kind.count)).sum();
            bound(gpus * (1_000 / self.gpu_share().max(1)), self.gpus() as u64);
        }
        u32::try_from(places).unwrap_or(u32::MAX)
    }

    /// What a place on a worker of this shape costs; the least is the cheapest. First cores that are missing, then GPUs and custom
    /// resources that would lie idle, then memory and cores beyond what is asked for.
    #[must_use]
    pub fn cost(&self, shape: &Shape) -> Cost {
        let cpu = thousandths(self.cpu);
        let gpus: usize = shape.gpus.iter().map(|kind| kind.count as usize).sum();
        Cost {
            cores_missing: cpu.saturating_sub(shape.cpu),
            gpus_idle: gpus.saturating_sub(self.gpus()),
            custom_idle: shape.custom.keys().filter(|name| !self.custom.contains_key(*name)).count(),
            memory_over: shape.memory_mb.saturating_sub(self.memory_mb.unwrap_or_default()),
            cores_over: shape.cpu.saturating_sub(cpu),
        }
    }

    /// What is asked for, in words.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.cpu > 1.0 {
            words.push(format!("cpu={}", self.cpu));
        }
        for (name, wanted) in [("memory", self.memory_mb), ("disk", self.disk_mb), ("shared_memory", self.shared_memory_mb)] {
            words.extend(wanted.map(|wanted| format!("{name}={wanted} MB")));
        }
        if self.gpu > 0.0 {
            words.push(self.gpu_words());
        }
        words.extend(self.labels.iter().map(|(name, value)| format!("label {name}={value}")));
        words.extend(self.custom.iter().map(|(name, wanted)| format!("{name}={wanted}")));
        words
    }
}

/// Whether a text may be a label's name or value.
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The cost of a place: compared field by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    cores_missing: u64,
    gpus_idle: usize,
    custom_idle: usize,
    memory_over: u64,
    cores_over: u64,
}

/// A GPU of a worker, or a MIG slice of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// What `CUDA_VISIBLE_DEVICES` takes.
    pub uuid: String,
    pub model: String,
    pub memory_mb: u64,
    /// Whether it is a MIG slice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mig: bool,
}

/// What a worker has beside slots, memory and languages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Equipment {
    /// Cores in thousandths; `None`: one per slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    #[serde(default)]
    pub disk_mb: u64,
    #[serde(default)]
    pub shared_memory_mb: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// In thousandths.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, u64>,
}

impl Equipment {
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// GPUs of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GpuKind {
    pub model: String,
    pub memory_mb: u64,
    pub count: u32,
}

/// What a worker has, without what tells it from others of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    pub slots: u32,
    /// Cores in thousandths.
    pub cpu: u64,
    pub memory_mb: u64,
    pub disk_mb: u64,
    pub shared_memory_mb: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuKind>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// In thousandths.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, u64>,
}

impl Shape {
    #[must_use]
    pub fn new(slots: u32, memory_mb: u64, languages: &[String], equipment: &Equipment) -> Self {
        let mut gpus = Vec::<GpuKind>::new();
        for gpu in equipment.gpus.iter().take(GPUS_MAX) {
            match gpus.iter_mut().find(|kind| kind.model == gpu.model && kind.memory_mb == gpu.memory_mb) {
                Some(kind) => kind.count += 1,
                None => gpus.push(GpuKind { model: gpu.model.clone(), memory_mb: gpu.memory_mb, count: 1 }),
            }
        }
        gpus.sort();
        Self {
            slots,
            cpu: equipment.cpu.unwrap_or(u64::from(slots) * 1_000),
            memory_mb,
            disk_mb: equipment.disk_mb,
            shared_memory_mb: equipment.shared_memory_mb,
            gpus,
            labels: equipment.labels.clone(),
            languages: languages.to_vec(),
            custom: equipment.custom.clone(),
        }
    }

    /// What it has, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = vec![format!("{} cores", quantity(self.cpu)), format!("{} MB memory", self.memory_mb)];
        words.extend(self.gpus.iter().map(|kind| format!("{} × {} ({} MB)", kind.count, kind.model, kind.memory_mb)));
        words.extend(self.labels.iter().map(|(name, value)| format!("{name}={value}")));
        words.extend(self.custom.iter().map(|(name, there)| format!("{name}={}", quantity(*there))));
        words.join(", ")
    }
}

/// Live workers of one pool that have the same shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShapeCount {
    pub shape: Shape,
    pub workers: u32,
}

/// The shapes of workers, equal ones counted; a bounded list in a fixed order.
#[must_use]
pub fn count_shapes(shapes: impl IntoIterator<Item = Shape>) -> Vec<ShapeCount> {
    let mut counted = BTreeMap::<Shape, u32>::new();
    for shape in shapes {
        *counted.entry(shape).or_default() += 1;
    }
    let surplus = counted.len().saturating_sub(SHAPES_MAX);
    counted.into_iter().skip(surplus).map(|(shape, workers)| ShapeCount { shape, workers }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(model: &str, memory_mb: u64) -> Gpu {
        Gpu { uuid: format!("GPU-{model}"), model: model.into(), memory_mb, mig: false }
    }

    fn shape(slots: u32, memory_mb: u64, gpus: Vec<Gpu>) -> Shape {
        Shape::new(slots, memory_mb, &["python".into()], &Equipment { gpus, ..Equipment::default() })
    }

    fn lacks(wanted: &Resources, shape: &Shape) -> Vec<String> {
        wanted.lacks("python", shape).into_iter().map(|lack| lack.0).collect()
    }

    #[test]
    fn what_a_worker_lacks_is_named() {
        let wanted = Resources { memory_mb: Some(4_096), gpu: 1.0, gpu_model: Some("a100".into()), ..Resources::default() };
        assert_eq!(lacks(&wanted, &shape(2, 1_000, vec![])), ["memory≥4096 MB", "gpu≥1 a100"]);
        assert!(lacks(&wanted, &shape(2, 4_096, vec![gpu("NVIDIA A100-SXM4-40GB", 40_000)])).is_empty());
        let labelled = Resources { labels: [("zone".to_owned(), "b".to_owned())].into(), ..Resources::default() };
        assert_eq!(lacks(&labelled, &shape(2, 1_000, vec![])), ["label zone=b"]);
        assert_eq!(Resources::default().lacks("r", &shape(1, 1, vec![])), [Lack("language r".into())]);
    }

    #[test]
    fn cores_that_nobody_has_are_no_lack_but_cost() {
        let wanted = Resources { cpu: 8.0, ..Resources::default() };
        let (small, large) = (shape(2, 1_000, vec![]), shape(8, 64_000, vec![]));
        assert!(lacks(&wanted, &small).is_empty());
        assert!(wanted.cost(&large) < wanted.cost(&small));
        assert_eq!(wanted.places("python", 8, &small), 1);
    }

    #[test]
    fn the_cheapest_place_leaves_no_gpu_idle_and_little_memory() {
        let wanted = Resources { memory_mb: Some(500), ..Resources::default() };
        let (plain, large, with_gpu) = (shape(2, 1_000, vec![]), shape(2, 8_000, vec![]), shape(2, 600, vec![gpu("T4", 16_000)]));
        assert!(wanted.cost(&plain) < wanted.cost(&large));
        assert!(wanted.cost(&large) < wanted.cost(&with_gpu));
    }

    #[test]
    fn places_are_bounded_by_what_is_scarcest() {
        let two = shape(8, 16_000, vec![gpu("T4", 16_000), gpu("T4", 16_000)]);
        let share = Resources { gpu: 0.5, ..Resources::default() };
        assert_eq!(share.places("python", 1, &two), 4);
        assert_eq!(Resources { gpu: 2.0, ..Resources::default() }.places("python", 1, &two), 1);
        assert_eq!(Resources { gpu: 1.0, memory_mb: Some(10_000), ..Resources::default() }.places("python", 1, &two), 1);
        assert_eq!(Resources { gpu: 3.0, ..Resources::default() }.places("python", 1, &two), 0);
        assert_eq!(Resources::default().places("python", 3, &two), 2);
    }

    #[test]
    fn impossible_wishes_are_named() {
        let fault = |resources: Resources| resources.fault().unwrap_or_default();
        assert!(fault(Resources { cpu: 0.0, ..Resources::default() }).contains("impossible amount of cpu"));
        assert!(fault(Resources { gpu: 1.5, ..Resources::default() }).contains("asks for 1.5 GPUs"));
        assert!(fault(Resources { gpu_model: Some("A100".into()), ..Resources::default() }).contains("asks for none"));
        let spill = |pool: Option<&str>, to: &str, after_seconds| Resources {
            pool: pool.map(|pool| pool.parse().unwrap()),
            spill: Some(Spill { pool: to.parse().unwrap(), after_seconds }),
            ..Resources::default()
        };
        assert!(fault(spill(None, "b", None)).contains("names no pool to leave"));
        assert!(fault(spill(Some("b"), "b", None)).contains("to the same pool"));
        assert!(fault(spill(Some("a"), "b", Some(0.1))).contains("spills after 0.1 seconds"));
        assert_eq!(spill(Some("a"), "b", None).fault(), None);
        assert_eq!(Resources { gpu: 0.25, custom: [("licence".to_owned(), 0.5)].into(), ..Resources::default() }.fault(), None);
    }

    #[test]
    fn equal_shapes_are_counted_and_the_list_is_bounded() {
        let counted = count_shapes([shape(2, 1, vec![]), shape(1, 1, vec![]), shape(2, 1, vec![])]);
        assert_eq!(counted.iter().map(|count| (count.shape.slots, count.workers)).collect::<Vec<_>>(), [(1, 1), (2, 2)]);
        let many = count_shapes((1..=100).map(|slots| shape(slots, 1, vec![])));
        assert_eq!((many.len(), many[0].shape.slots), (SHAPES_MAX, 100 - 31));
    }

    #[test]
    fn quantities_read_as_they_are_written() {
        assert_eq!((quantity(2_000), quantity(500), quantity(1_250)), ("2".into(), "0.5".into(), "1.25".into()));
    }
}

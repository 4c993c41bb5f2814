//! The GPUs of this machine, through NVIDIA's management library, which is loaded when the worker starts. Without it there are none, and
//! that is no error. A GPU that is cut into MIG slices counts as its slices.

use std::collections::BTreeMap;

use causey_protocol::resources::{GPUS_MAX, Gpu};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

const MEGABYTE: u64 = 1024 * 1024;

/// The management library, if it is there.
#[derive(Debug, Default)]
pub(crate) struct Gpus(Option<Nvml>);

impl Gpus {
    pub(crate) fn open() -> Self {
        // Containers have the library under its versioned name alone.
        let opened = Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init().or_else(|_| Nvml::init());
        match opened {
            Ok(nvml) => Self(Some(nvml)),
            Err(NvmlError::LibloadingError(_)) => Self(None),
            Err(error) => {
                tracing::warn!(%error, "NVIDIA's management library does not answer; this worker offers no GPU");
                Self(None)
            }
        }
    }

    /// All GPUs, in the library's order.
    pub(crate) fn list(&self) -> Vec<Gpu> {
        let mut found = Vec::new();
        self.each(|device, mig| {
            if let (Ok(uuid), Ok(model), Ok(memory)) = (device.uuid(), device.name(), device.memory_info()) {
                found.push(Gpu { uuid, model, memory_mb: memory.total / MEGABYTE, mig });
            }
        });
        found
    }

    /// Memory that is free now, in MB, by UUID.
    pub(crate) fn free_mb(&self) -> BTreeMap<String, u64> {
        let mut free = BTreeMap::new();
        self.each(|device, _| {
            if let (Ok(uuid), Ok(memory)) = (device.uuid(), device.memory_info()) {
                free.insert(uuid, memory.free / MEGABYTE);
            }
        });
        free
    }

    /// Whole GPUs and slices; those that do not answer are left out.
    fn each(&self, mut each: impl FnMut(&Device<'_>, bool)) {
        let Some(nvml) = &self.0 else { return };
        let mut seen = 0;
        for index in 0..nvml.device_count().unwrap_or_default() {
            let Ok(device) = nvml.device_by_index(index) else { continue };
            let slices: Vec<Device<'_>> = match device.mig_device_count() {
                Ok(most) => (0..most).filter_map(|slice| device.mig_device_by_index(slice).ok()).collect(),
                Err(_) => Vec::new(),
            };
            let whole = if slices.is_empty() { Some(device) } else { None };
            let of_device = whole.iter().map(|device| (device, false)).chain(slices.iter().map(|slice| (slice, true)));
            for (device, mig) in of_device.take(GPUS_MAX - seen) {
                seen += 1;
                each(device, mig);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_listed_where_there_are_any() {
        let gpus = Gpus::open();
        let listed = gpus.list();
        if listed.is_empty() {
            eprintln!("skipped: no NVIDIA GPU, or no management library, on this machine");
            return;
        }
        for gpu in &listed {
            assert!(gpu.uuid.starts_with("GPU-") || gpu.uuid.starts_with("MIG-"), "{gpu:?}");
            assert!(!gpu.model.is_empty() && gpu.memory_mb > 0, "{gpu:?}");
            assert!(gpus.free_mb()[&gpu.uuid] <= gpu.memory_mb);
        }
    }
}

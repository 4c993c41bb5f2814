//! What of this worker is in use beside slots: memory, disk, shared memory, GPUs and whatever it offers by names of its own. Plain
//! arithmetic, like slots: tasks without needs never come here.

use std::collections::BTreeMap;

use causey_protocol::live::Offer;
use causey_protocol::resources::{Gpu, Lack, Resources, Shape, thousandths};

/// A whole GPU in the thousandths in which shares are booked.
const WHOLE: u64 = 1_000;

/// Something that is there in a quantity.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    total: u64,
    used: u64,
}

impl Room {
    fn new(total: u64) -> Self {
        Self { total, used: 0 }
    }

    fn fits(self, wanted: u64) -> bool {
        wanted <= self.total - self.used
    }
}

#[derive(Clone, Debug)]
struct Device {
    gpu: Gpu,
    share: Room,
    memory: Room,
    /// Memory that is free on the device, by its own measure: others than this worker may use it.
    free_mb: Option<u64>,
}

/// What one attempt has of the worker; to be given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Booking {
    memory_mb: u64,
    disk_mb: u64,
    shared_memory_mb: u64,
    custom: Vec<(String, u64)>,
    /// Places of devices.
    devices: Vec<usize>,
    share: u64,
    gpu_memory_mb: u64,
}

#[derive(Debug)]
pub(crate) struct Capacity {
    shape: Shape,
    memory: Room,
    disk: Room,
    shared_memory: Room,
    custom: BTreeMap<String, Room>,
    devices: Vec<Device>,
}

impl Capacity {
    pub(crate) fn new(offer: &Offer) -> Self {
        let device = |gpu: &Gpu| Device { gpu: gpu.clone(), share: Room::new(WHOLE), memory: Room::new(gpu.memory_mb), free_mb: None };
        Self {
            shape: offer.shape(),
            memory: Room::new(offer.memory_mb),
            disk: Room::new(offer.equipment.disk_mb),
            shared_memory: Room::new(offer.equipment.shared_memory_mb),
            custom: offer.equipment.custom.iter().map(|(name, there)| (name.clone(), Room::new(*there))).collect(),
            devices: offer.equipment.gpus.iter().map(device).collect(),
        }
    }

    /// Whether any device is there whose memory is worth measuring.
    pub(crate) fn has_devices(&self) -> bool {
        !self.devices.is_empty()
    }

    /// What this worker never has of what is needed, however idle it is.
    pub(crate) fn lacks(&self, language: &str, needs: &Resources) -> Vec<Lack> {
        needs.lacks(language, &self.shape)
    }

    /// Notes the memory that is free on devices now, in MB, by UUID.
    pub(crate) fn measured(&mut self, free: &BTreeMap<String, u64>) {
        for device in &mut self.devices {
            device.free_mb = free.get(&device.gpu.uuid).copied();
        }
    }

    /// What an attempt would get now; `None`: not all of it is free.
    pub(crate) fn find(&self, needs: &Resources) -> Option<Booking> {
        let wanted = |megabytes: Option<u64>| megabytes.unwrap_or_default();
        let (memory_mb, disk_mb) = (wanted(needs.memory_mb), wanted(needs.disk_mb));
        let shared_memory_mb = wanted(needs.shared_memory_mb);
        let there = self.memory.fits(memory_mb) && self.disk.fits(disk_mb) && self.shared_memory.fits(shared_memory_mb);
        let custom: Vec<(String, u64)> = needs.custom.iter().map(|(name, wanted)| (name.clone(), thousandths(*wanted))).collect();
        let fits = |(name, wanted): &(String, u64)| self.custom.get(name).is_some_and(|room| room.fits(*wanted));
        if !there || !custom.iter().all(fits) {
            return None;
        }
        let share = needs.gpu_share();
        let gpu_memory_mb = wanted(needs.gpu_memory_mb);
        let devices = self.find_devices(needs, share, gpu_memory_mb)?;
        Some(Booking { memory_mb, disk_mb, shared_memory_mb, custom, devices, share, gpu_memory_mb })
    }

    /// The devices for an attempt. Shares are packed: the fullest device that still holds one gets it, so that whole ones stay whole.
    fn find_devices(&self, needs: &Resources, share: u64, gpu_memory_mb: u64) -> Option<Vec<usize>> {
        let has_room = |device: &Device| {
            let is_free = device.free_mb.is_none_or(|free| gpu_memory_mb <= free);
            device.share.fits(share)
                && device.memory.fits(gpu_memory_mb)
                && is_free
                && needs.takes_gpu(&device.gpu.model, device.gpu.memory_mb)
        };
        let mut able: Vec<usize> = (0..self.devices.len()).filter(|place| has_room(&self.devices[*place])).collect();
        // The fullest first, then the smallest.
        able.sort_by_key(|place| (WHOLE - self.devices[*place].share.used, self.devices[*place].memory.total));
        let wanted = needs.gpus();
        (able.len() >= wanted).then(|| able.into_iter().take(wanted).collect())
    }

    /// Books what [`Capacity::find`] found just now.
    pub(crate) fn take(&mut self, booking: &Booking) {
        self.add(booking, |room, amount| {
            assert!(room.fits(amount), "only what is free is booked");
            room.used += amount;
        });
    }

    /// Frees what was booked.
    pub(crate) fn give_back(&mut self, booking: &Booking) {
        self.add(booking, |room, amount| {
            assert!(amount <= room.used, "only what was booked is freed");
            room.used -= amount;
        });
    }

    fn add(&mut self, booking: &Booking, mut change: impl FnMut(&mut Room, u64)) {
        change(&mut self.memory, booking.memory_mb);
        change(&mut self.disk, booking.disk_mb);
        change(&mut self.shared_memory, booking.shared_memory_mb);
        for (name, amount) in &booking.custom {
            if let Some(room) = self.custom.get_mut(name) {
                change(room, *amount);
            }
        }
        for place in &booking.devices {
            let device = &mut self.devices[*place];
            change(&mut device.share, booking.share);
            change(&mut device.memory, booking.gpu_memory_mb);
        }
    }

    /// What `CUDA_VISIBLE_DEVICES` says to an attempt: its devices, or none. `None`: this worker has no say, because it has no devices.
    pub(crate) fn visible_devices(&self, booking: &Booking) -> Option<String> {
        let uuids: Vec<&str> = booking.devices.iter().map(|place| self.devices[*place].gpu.uuid.as_str()).collect();
        self.has_devices().then(|| uuids.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causey_protocol::id::Timestamp;
    use causey_protocol::resources::Equipment;

    fn capacity(memory_mb: u64, gpus: &[(&str, u64)], custom: &[(&str, u64)]) -> Capacity {
        let gpu = |(uuid, memory_mb): &(&str, u64)| Gpu { uuid: (*uuid).into(), model: "T4".into(), memory_mb: *memory_mb, mig: false };
        Capacity::new(&Offer {
            pool: "default".parse().unwrap(),
            worker: "w".parse().unwrap(),
            slots: 4,
            memory_mb,
            languages: vec!["python".into()],
            version: String::new(),
            started: Timestamp(0),
            equipment: Equipment {
                gpus: gpus.iter().map(gpu).collect(),
                custom: custom.iter().map(|(name, there)| ((*name).to_owned(), *there)).collect(),
                ..Equipment::default()
            },
            closed: false,
        })
    }

    fn book(capacity: &mut Capacity, needs: &Resources) -> Option<(Booking, String)> {
        let booking = capacity.find(needs)?;
        capacity.take(&booking);
        let visible = capacity.visible_devices(&booking).unwrap_or_default();
        Some((booking, visible))
    }

    fn gpus(gpu: f64) -> Resources {
        Resources { gpu, ..Resources::default() }
    }

    #[test]
    fn what_is_booked_is_not_there_for_others_until_it_is_given_back() {
        let mut capacity = capacity(1_000, &[], &[("licence", 1_500)]);
        let needs = Resources { memory_mb: Some(600), custom: [("licence".to_owned(), 1.0)].into(), ..Resources::default() };
        let (booking, visible) = book(&mut capacity, &needs).unwrap();
        assert_eq!(visible, "");
        assert!(capacity.find(&needs).is_none());
        assert!(capacity.find(&Resources { memory_mb: Some(400), ..Resources::default() }).is_some());
        capacity.give_back(&booking);
        assert!(capacity.find(&needs).is_some());
        assert_eq!(capacity.lacks("python", &Resources { memory_mb: Some(2_000), ..Resources::default() })[0].0, "memory≥2000 MB");
    }

    #[test]
    fn shares_of_a_gpu_are_packed_so_that_whole_ones_stay_whole() {
        let mut capacity = capacity(1_000, &[("A", 16_000), ("B", 16_000)], &[]);
        let (first, one) = book(&mut capacity, &gpus(0.5)).unwrap();
        let (_, two) = book(&mut capacity, &gpus(0.5)).unwrap();
        assert_eq!((one.as_str(), two.as_str()), ("A", "A"));
        let (_, whole) = book(&mut capacity, &gpus(1.0)).unwrap();
        assert_eq!(whole, "B");
        assert!(capacity.find(&gpus(0.25)).is_none());
        capacity.give_back(&first);
        assert_eq!(book(&mut capacity, &gpus(0.25)).unwrap().1, "A");
        assert!(capacity.find(&gpus(2.0)).is_none());
    }

    #[test]
    fn memory_of_a_gpu_is_shared_as_declared_and_as_measured() {
        let mut capacity = capacity(1_000, &[("A", 16_000), ("B", 40_000)], &[]);
        let share = |memory_mb| Resources { gpu: 0.1, gpu_memory_mb: Some(memory_mb), ..Resources::default() };
        assert_eq!(book(&mut capacity, &share(10_000)).unwrap().1, "A", "the smallest of the empty ones");
        assert_eq!(book(&mut capacity, &share(10_000)).unwrap().1, "B", "the other has no memory left");
        // Somebody else uses the second one.
        capacity.measured(&[("B".to_owned(), 5_000)].into());
        assert!(capacity.find(&share(10_000)).is_none());
        assert_eq!(book(&mut capacity, &share(5_000)).unwrap().1, "A");
    }

    #[test]
    fn several_whole_gpus_are_named_together_and_none_to_who_asks_for_none() {
        let mut capacity = capacity(1_000, &[("A", 1), ("B", 1), ("C", 1)], &[]);
        assert_eq!(book(&mut capacity, &gpus(2.0)).unwrap().1, "A,B");
        let none = Resources { memory_mb: Some(1), ..Resources::default() };
        assert_eq!(book(&mut capacity, &none).unwrap().1, "");
    }
}

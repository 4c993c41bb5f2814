//! A store in memory, for simulation and tests: it lasts as long as a handle to it. Each handle may have a way of its own to the
//! objects, on which calls take time, get lost or find no end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

use crate::error::StoreError;
use crate::store::Put;

/// What befalls a call on its way to the objects or back.
pub trait Way: Debug + Send + Sync {
    /// Returns when the call has gone it; `false` when it is lost.
    fn pass(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// The way on which nothing happens.
#[derive(Debug)]
struct Straight;

impl Way for Straight {
    fn pass(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(std::future::ready(true))
    }
}

/// A handle to objects in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Memory {
    pub(crate) id: Uuid,
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    way: Arc<dyn Way>,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(id: Uuid) -> Self {
        Self { id, objects: Arc::default(), way: Arc::new(Straight) }
    }

    /// The same objects by another way.
    #[must_use]
    pub fn by(&self, way: Arc<dyn Way>) -> Self {
        Self { way, ..self.clone() }
    }

    /// What lies there, looked at from nowhere: no way leads to it.
    #[must_use]
    pub fn object(&self, path: &str) -> Option<Bytes> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    async fn call<T>(
        &self,
        action: &'static str,
        path: &str,
        work: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T,
    ) -> Result<T, StoreError> {
        let lost =
            || StoreError::Bucket { action, bucket: "memory".into(), path: path.to_owned(), message: "no answer".into(), transient: true };
        if !self.way.pass().await {
            return Err(lost());
        }
        let result = work(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner));
        if self.way.pass().await { Ok(result) } else { Err(lost()) }
    }

    pub(crate) async fn put(&self, path: &str, bytes: Bytes) -> Result<Put, StoreError> {
        let put = |objects: &mut BTreeMap<String, Bytes>| match objects.entry(path.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => Put::Present,
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(bytes);
                Put::Stored
            }
        };
        self.call("write", path, put).await
    }

    pub(crate) async fn put_file(&self, path: &str, file: &Path) -> Result<Put, StoreError> {
        let bytes = std::fs::read(file).map_err(|error| StoreError::file("read", file, error))?;
        self.put(path, bytes.into()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        self.call("read", path, |objects| objects.get(path).cloned()).await
    }

    pub(crate) async fn get_to_file(&self, path: &str, file: &Path) -> Result<bool, StoreError> {
        let Some(bytes) = self.get(path).await? else { return Ok(false) };
        std::fs::write(file, bytes).map_err(|error| StoreError::file("write", file, error))?;
        Ok(true)
    }

    pub(crate) async fn head(&self, path: &str) -> Result<Option<u64>, StoreError> {
        self.call("look at", path, |objects| objects.get(path).map(|bytes| bytes.len() as u64)).await
    }

    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{folder}/");
        let names = |objects: &mut BTreeMap<String, Bytes>| {
            let below = objects.keys().filter_map(|path| path.strip_prefix(&prefix));
            let names: BTreeSet<&str> = below.filter(|name| !name.contains('/')).collect();
            names.into_iter().map(str::to_owned).collect()
        };
        self.call("list", folder, names).await
    }

    pub(crate) async fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.call("remove", path, |objects| drop(objects.remove(path))).await
    }
}

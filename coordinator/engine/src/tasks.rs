//! The tasks of a run that the state knows one by one, in groups: consecutive items of one step on one path. A group is what is
//! shared between copies of a state and what a projection writes when one of its tasks changes, so a wide run is never copied
//! or written as a whole. It knows no rules.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use causey_protocol::flow::StepIndex;
use causey_protocol::id::Path;
use serde::{Deserialize, Serialize};

use crate::run::{OpenDispatch, Task, TaskRef};

/// Items in a group at most.
const GROUP_ITEMS: u32 = 1_000;

/// Names a group: a step, the path of the foreach that encloses its tasks most closely, and a number that grows with their index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct GroupKey {
    step: StepIndex,
    outer: Path,
    number: u32,
}

/// A task's place in its group; a task outside any foreach has no index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    index: Option<u32>,
    visit: u32,
}

/// A dispatch with the place and the attempt of its first task: the retry of that task may be open beside the rest of the list.
type OpenAt = ((Place, u32), OpenDispatch);

/// Tasks and open dispatches, each in the order of their places; a dispatch lies with its first task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    tasks: Vec<(Place, Task)>,
    dispatches: Vec<OpenAt>,
    /// Tasks that are open or wait for their time: a group without is skipped when a run ends.
    unfinished: u32,
}

/// The groups of a run, and which of them changed since they were last taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    groups: BTreeMap<GroupKey, Arc<Group>>,
    changed: BTreeSet<GroupKey>,
}

impl PartialEq for Tasks {
    fn eq(&self, other: &Self) -> bool {
        self.groups == other.groups
    }
}

impl GroupKey {
    fn new(step: StepIndex, outer: Path, index: u32) -> Self {
        Self { step, outer, number: index / GROUP_ITEMS }
    }

    fn of(task: &TaskRef) -> (Self, Place) {
        let (outer, index) = match task.path.split_last() {
            Some((outer, index)) => (outer, Some(index)),
            None => (Path::default(), None),
        };
        (Self::new(task.step, outer, index.unwrap_or_default()), Place { index, visit: task.visit })
    }

    fn task(&self, place: Place) -> TaskRef {
        let path = place.index.map_or_else(|| self.outer.clone(), |index| self.outer.child(index));
        TaskRef::new(self.step, path, place.visit)
    }
}

impl Place {
    /// The place of a task that shares step and outer path with `near`.
    pub(crate) fn beside(self, near: &TaskRef) -> TaskRef {
        GroupKey::of(near).0.task(self)
    }

    pub(crate) fn of(task: &TaskRef) -> Self {
        GroupKey::of(task).1
    }
}

/// Where `place` is in a list, or would be. Lists mostly hold consecutive items, so the place itself says where to look first.
fn find(list: &[(Place, Task)], place: Place) -> Result<usize, usize> {
    let first = list.first().and_then(|(first, _)| first.index);
    if let (Some(first), Some(index)) = (first, place.index)
        && let Some(guess) = index.checked_sub(first)
        && list.get(guess as usize).is_some_and(|(found, _)| *found == place)
    {
        return Ok(guess as usize);
    }
    if list.last().is_none_or(|(last, _)| *last < place) {
        return Err(list.len());
    }
    list.binary_search_by_key(&place, |(place, _)| *place)
}

impl Group {
    fn count(&self) -> u32 {
        let unfinished = self.tasks.iter().filter(|(_, task)| task.state.is_unfinished()).count();
        u32::try_from(unfinished).unwrap_or(u32::MAX)
    }

    fn find_dispatch(&self, place: Place, attempt: u32) -> Result<usize, usize> {
        self.dispatches.binary_search_by_key(&(place, attempt), |(found, _)| *found)
    }

    fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.dispatches.is_empty()
    }
}

impl Tasks {
    pub(crate) fn get(&self, task: &TaskRef) -> Option<&Task> {
        let (key, place) = GroupKey::of(task);
        let group = self.groups.get(&key)?;
        find(&group.tasks, place).ok().map(|found| &group.tasks[found].1)
    }

    /// A group to be changed; made when it is not there.
    fn group_mut(&mut self, key: GroupKey) -> &mut Group {
        if !self.changed.contains(&key) {
            self.changed.insert(key.clone());
        }
        Arc::make_mut(self.groups.entry(key).or_default())
    }

    /// A group to be changed, if it is there.
    fn find_group_mut(&mut self, key: &GroupKey) -> Option<&mut Group> {
        let group = self.groups.get_mut(key)?;
        if !self.changed.contains(key) {
            self.changed.insert(key.clone());
        }
        Some(Arc::make_mut(group))
    }

    /// Changes a task that is there.
    pub(crate) fn change<T>(&mut self, task: &TaskRef, change: impl FnOnce(&mut Task) -> T) -> Option<T> {
        let (key, place) = GroupKey::of(task);
        let group = self.find_group_mut(&key)?;
        let found = find(&group.tasks, place).ok()?;
        let task = &mut group.tasks[found].1;
        let before = task.state.is_unfinished();
        let changed = change(task);
        match (before, task.state.is_unfinished()) {
            (false, true) => group.unfinished += 1,
            (true, false) => group.unfinished -= 1,
            _ => {}
        }
        Some(changed)
    }

    /// Puts a task where there was none.
    pub(crate) fn insert(&mut self, task: &TaskRef, value: Task) {
        let (key, place) = GroupKey::of(task);
        let group = self.group_mut(key);
        group.unfinished += u32::from(value.state.is_unfinished());
        match find(&group.tasks, place) {
            Ok(found) => group.tasks[found].1 = value,
            Err(at) => {
                // Most groups of a small run hold one task: room for four would be room for three too many.
                if group.tasks.is_empty() {
                    group.tasks.reserve_exact(1);
                }
                group.tasks.insert(at, (place, value));
            }
        }
    }

    /// The open dispatch of this attempt at `first`, which leads it.
    pub(crate) fn dispatch(&self, first: &TaskRef, attempt: u32) -> Option<&OpenDispatch> {
        let (key, place) = GroupKey::of(first);
        let group = self.groups.get(&key)?;
        group.find_dispatch(place, attempt).ok().map(|found| &group.dispatches[found].1)
    }

    pub(crate) fn offer(&mut self, first: &TaskRef, dispatch: OpenDispatch) {
        let (key, place) = GroupKey::of(first);
        let group = self.group_mut(key);
        match group.find_dispatch(place, dispatch.attempt) {
            Ok(found) => group.dispatches[found].1 = dispatch,
            Err(at) => {
                if group.dispatches.is_empty() {
                    group.dispatches.reserve_exact(1);
                }
                group.dispatches.insert(at, ((place, dispatch.attempt), dispatch));
            }
        }
    }

    /// One attempt of a dispatch has been closed; with its last one the dispatch is over.
    pub(crate) fn close_one(&mut self, first: &TaskRef, attempt: u32) {
        let (key, place) = GroupKey::of(first);
        let Some(group) = self.find_group_mut(&key) else { return };
        if let Ok(found) = group.find_dispatch(place, attempt) {
            group.dispatches[found].1.open -= 1;
            if group.dispatches[found].1.open == 0 {
                group.dispatches.remove(found);
            }
        }
        if group.is_empty() {
            self.groups.remove(&key);
        }
    }

    /// Takes all dispatches back.
    pub(crate) fn close_all(&mut self) {
        let open: Vec<GroupKey> =
            self.groups.iter().filter(|(_, group)| !group.dispatches.is_empty()).map(|(key, _)| key.clone()).collect();
        for key in open {
            self.group_mut(key).dispatches.clear();
        }
    }

    pub(crate) fn dispatches(&self) -> impl Iterator<Item = (TaskRef, &OpenDispatch)> {
        self.groups.iter().flat_map(|(key, group)| group.dispatches.iter().map(|((place, _), dispatch)| (key.task(*place), dispatch)))
    }

    /// All tasks in order, from `from` on.
    pub(crate) fn range(&self, from: Bound<TaskRef>) -> impl Iterator<Item = (TaskRef, &Task)> {
        let excluded = matches!(from, Bound::Excluded(_));
        let first = match from {
            Bound::Included(task) | Bound::Excluded(task) => Some((GroupKey::of(&task).0, task)),
            Bound::Unbounded => None,
        };
        let groups = match &first {
            Some((key, _)) => self.groups.range(key.clone()..),
            None => self.groups.range::<GroupKey, _>(..),
        };
        groups
            .flat_map(|(key, group)| group.tasks.iter().map(|(place, task)| (key.task(*place), task)))
            .skip_while(move |(task, _)| first.as_ref().is_some_and(|(_, first)| if excluded { task <= first } else { task < first }))
    }

    /// Tasks that are open or wait for their time.
    pub(crate) fn unfinished(&self) -> impl Iterator<Item = (TaskRef, &Task)> {
        let groups = self.groups.iter().filter(|(_, group)| group.unfinished > 0);
        let tasks = groups.flat_map(|(key, group)| group.tasks.iter().map(move |(place, task)| (key, *place, task)));
        tasks.filter(|(_, _, task)| task.state.is_unfinished()).map(|(key, place, task)| (key.task(place), task))
    }

    /// The groups that hold tasks of `step` below items `from..to` of a foreach opened on `path`.
    fn groups_below(&self, step: StepIndex, path: &Path, depth: usize, (from, to): (u32, u32)) -> Vec<GroupKey> {
        let bounds = if depth == path.0.len() + 1 {
            let key = |number| GroupKey { step, outer: path.clone(), number };
            (key(from / GROUP_ITEMS), key(to.div_ceil(GROUP_ITEMS)))
        } else {
            let key = |index| GroupKey { step, outer: path.child(index), number: 0 };
            (key(from), key(to))
        };
        self.groups.range(bounds.0..bounds.1).map(|(key, _)| key.clone()).collect()
    }

    /// Tasks of `step`, whose paths have `depth` indices, below items `from..to` of a foreach opened on `path`.
    pub(crate) fn below(
        &self,
        step: StepIndex,
        path: &Path,
        depth: usize,
        items: (u32, u32),
    ) -> impl Iterator<Item = (TaskRef, &Task)> + use<'_> {
        let level = path.0.len();
        let groups = self.groups_below(step, path, depth, items);
        groups.into_iter().filter_map(|key| Some((self.groups.get(&key)?, key))).flat_map(move |(group, key)| {
            let tasks = group.tasks.iter().map(move |(place, task)| (key.task(*place), task));
            tasks.filter(move |(task, _)| task.path.0.get(level).is_some_and(|item| (items.0..items.1).contains(item)))
        })
    }

    /// Forgets the tasks that [`Tasks::below`] names; returns how many they were.
    pub(crate) fn forget_below(&mut self, step: StepIndex, path: &Path, depth: usize, items: (u32, u32)) -> u32 {
        let level = path.0.len();
        let mut forgotten = 0;
        for key in self.groups_below(step, path, depth, items) {
            let group = self.group_mut(key.clone());
            let before = group.tasks.len();
            group.tasks.retain(|(place, _)| {
                let task = key.task(*place);
                task.path.0.get(level).is_none_or(|item| !(items.0..items.1).contains(item))
            });
            forgotten += u32::try_from(before - group.tasks.len()).unwrap_or(u32::MAX);
            group.unfinished = group.count();
            if group.is_empty() {
                self.groups.remove(&key);
            }
        }
        forgotten
    }

    pub(crate) fn changes_len(&self) -> usize {
        self.changed.len()
    }

    pub(crate) fn forget_changes(&mut self) {
        self.changed.clear();
    }

    /// The groups changed since the last call; `None` for one that is gone.
    pub(crate) fn take_changes(&mut self) -> Vec<(GroupKey, Option<Arc<Group>>)> {
        let with_group = |key: GroupKey| {
            let group = self.groups.get(&key).cloned();
            (key, group)
        };
        std::mem::take(&mut self.changed).into_iter().map(with_group).collect()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = (&GroupKey, &Arc<Group>)> {
        self.groups.iter()
    }

    pub(crate) fn restore(&mut self, key: GroupKey, group: Group) {
        self.groups.insert(key, Arc::new(group));
    }

    /// Whether every group counts its unfinished tasks rightly.
    pub(crate) fn is_counted(&self) -> bool {
        self.groups.values().all(|group| group.unfinished == group.count() && !group.is_empty())
    }
}

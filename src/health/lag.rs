//! How far the data of each replica are behind those of its primary, in bytes and in time.
//!
//! A primary counts the bytes of its writes, which is its offset. A replica says up to which offset it has applied
//! them. Both belong to a history, which has an ID (`master_replid`). So the primary of a replica is the member that
//! calls itself a primary and has a history with this ID; addresses say nothing here. Each check takes a sample of the
//! offset, and [`Offsets`] keeps those of the primary with the time at which their check **began**. A replica that
//! has applied as much as such a sample has all that was written until that check began. It holds for all that
//! follows that a backend in doubt counts as staler, never as fresher:
//!
//! - A primary is current. Once its checks fail, its data are as old as its last answer.
//! - While a primary can't be asked, there are no new samples, and its replicas get older.
//! - After a failover, the promoted replica begins a new history, which says from which offset on it differs from
//!   the one before. Samples of the one before count up to there, and only those from before the last check in
//!   which the promoted server still was in it.
//! - A primary whose offset falls has another history under the same ID: its earlier samples are forgotten. A replica
//!   that has more than its primary had later is of another history as well: how old its data are is not known.
//! - Two members may call themselves primaries of one history. If both continue it, the one from a lower offset lacks
//!   writes. If one continues what the other goes on with, nobody knows which of them is right. Those in doubt
//!   are not current, and their replicas aren't. While neither has gone on, each is as old as the last look at the other.
//! - If the primary of a replica is no member, the member with the most bytes of its history shows how much it
//!   lacks **at least**. How old its data are at most is not known.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{BackendId, Report};
use crate::config::LagBounds;
use crate::text::figures::size;

/// Most samples of one history. With [`AGE_PART`], samples every 100 ms for 24 hours (the longest time that a bound
/// can have) are about 250.
const MAX_SAMPLES: usize = 512;

/// Samples that are nearer to each other than their age divided by this are thinned out: the age of data is
/// overstated by a sixteenth at most.
const AGE_PART: u32 = 16;

/// The data of a server: whose they are, and how far they go.
#[derive(Debug, Clone)]
pub struct Position {
    /// The ID of their history.
    history: Arc<str>,
    /// The ID of the history that this one continues.
    previous: Arc<str>,
    /// First byte of the history that the previous one does not have; `None` if there is no previous one.
    previous_end: Option<u64>,
    /// How many bytes of the history the server has.
    offset: Option<u64>,
    is_replica: bool,
    /// Whether its data are there at all.
    is_ready: bool,
}

impl Position {
    /// Returns the position that a server has reported.
    pub fn of(report: &Report) -> Self {
        Self {
            history: Arc::clone(&report.replication_id),
            previous: Arc::clone(&report.previous_replication_id),
            previous_end: report.previous_end,
            offset: report.offset,
            is_replica: report.is_replica,
            is_ready: report.not_ready.is_none() && report.unserved.is_none(),
        }
    }

    /// Returns whether it may lack writes of another server that is a primary as well.
    fn is_in_doubt_beside(&self, other: &Self) -> bool {
        match self.parted_from(other) {
            // The data of both are the same until one of them goes on.
            Some(end) => [self, other].iter().any(|one| one.has_from(end)),
            None => match (self.previous_end, other.previous_end) {
                (Some(own), Some(others)) => self.previous == other.previous && own < others,
                _ => false,
            },
        }
    }

    /// Returns from which offset on the data may differ from those of another server, if one of them continues the
    /// history of the other.
    fn parted_from(&self, other: &Self) -> Option<u64> {
        match (self.previous_end, other.previous_end) {
            (Some(end), _) if self.previous == other.history => Some(end),
            (_, Some(end)) if other.previous == self.history => Some(end),
            _ => None,
        }
    }

    fn has_from(&self, end: u64) -> bool {
        self.offset.is_none_or(|offset| offset >= end)
    }
}

/// How old the data of a server are at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// They are current: it is a primary.
    Current,
    /// They have all that was written before this time.
    AsOf(Instant),
    /// That is not known.
    Unknown,
}

impl Freshness {
    /// Returns how old the data are at most; `None` while that is not known.
    pub fn staleness(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Current => Some(Duration::ZERO),
            Self::AsOf(then) => Some(now.saturating_duration_since(then)),
            Self::Unknown => None,
        }
    }
}

/// Returns whether data that are at most this old, if that is known, may answer a read that asks for data of at most
/// `max_staleness`.
pub fn is_fresh_enough(staleness: Option<Duration>, max_staleness: Duration) -> bool {
    staleness.is_some_and(|staleness| staleness <= max_staleness)
}

/// What a server lacks of its primary's writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// The bytes that it lacked when it was asked last; `None` while there is no other to compare with.
    pub bytes: Option<u64>,
    /// Whether it may lack more, because its primary is not asked.
    pub is_at_least: bool,
    /// How old its data are at most; `None` while that is not known.
    pub staleness: Option<Duration>,
    /// How old its data are, as far as that is known of the member with the most bytes of its history.
    age: Option<Duration>,
}

impl Lag {
    /// Returns the bytes that it lacks, in words, if it lacks some.
    pub fn shown_bytes(&self) -> Option<String> {
        let bytes = self.bytes.filter(|bytes| *bytes > 0)?;
        let at_least = if self.is_at_least { "at least " } else { "" };
        Some(format!("{at_least}{}", size(bytes)))
    }

    /// Returns the reason why the server is read from only while no other is up, if these bounds are exceeded. One that
    /// `is_stale` already has to come below half of them, so that it does not go to and fro.
    pub fn excess(&self, bounds: LagBounds, is_stale: bool) -> Option<String> {
        let part = if is_stale { 2 } else { 1 };
        let lacking = format!("it lacks {} of its primary's writes", self.shown_bytes()?);
        if let Some(most) = bounds.bytes.filter(|most| self.bytes > Some(*most / part)) {
            return Some(format!("{lacking} (--max-lag-bytes {})", size(most)));
        }
        // One that has all that is known of is left to the measure by silence: its primary may just not be asked.
        let (age, longest) = (self.age?, bounds.time?);
        let longest_shown = humantime::format_duration(longest);
        (age > longest / part as u32).then(|| {
            let seconds = age.as_secs_f64();
            format!("{lacking}, and its data are {seconds:.1} s old (--max-lag {longest_shown})")
        })
    }
}

/// An offset that checks have found.
#[derive(Debug, Clone, Copy)]
struct Sample {
    offset: u64,
    /// When the first of these checks began.
    first: Instant,
    /// When the last of them began.
    last: Instant,
}

/// Samples of a growing offset, the oldest first.
#[derive(Debug, Default)]
struct Samples(VecDeque<Sample>);

impl Samples {
    fn newest(&self) -> Option<Sample> {
        self.0.back().copied()
    }

    /// Adds a sample that is not below the newest one. One that began earlier than that tells nothing new.
    fn add(&mut self, began: Instant, offset: u64) {
        match self.0.back_mut() {
            Some(newest) if newest.last >= began => return,
            Some(newest) if newest.offset == offset => newest.last = began,
            _ => self.0.push_back(Sample { offset, first: began, last: began }),
        }
        self.thin(began);
    }

    /// Leaves out samples that lie close together for their age. Data as old as one of these are taken for as old as
    /// the sample before it.
    fn thin(&mut self, now: Instant) {
        let mut kept: VecDeque<Sample> = VecDeque::with_capacity(self.0.len());
        for (at, sample) in self.0.iter().enumerate() {
            let is_needed = match (kept.back(), self.0.get(at + 1)) {
                (Some(before), Some(after)) => {
                    let age = now.saturating_duration_since(after.last);
                    after.last.saturating_duration_since(before.last) > age / AGE_PART
                }
                _ => true,
            };
            if is_needed {
                kept.push_back(*sample);
            }
        }
        let surplus = kept.len().saturating_sub(MAX_SAMPLES);
        kept.drain(..surplus);
        self.0 = kept;
    }

    /// Returns when it was last known to be at this offset or below, in checks that began until `end`.
    fn last_at(&self, offset: u64, end: Option<Instant>) -> Option<Instant> {
        let within = self.0.partition_point(|sample| sample.offset <= offset);
        let samples = self.0.range(..within).rev();
        samples.map(|sample| sample.last).find(|last| end.is_none_or(|end| *last <= end))
    }

    /// Returns the offset that was known at that time, or the first one after it.
    fn known_at(&self, time: Instant) -> Option<u64> {
        let until = self.0.partition_point(|sample| sample.first <= time);
        self.0.get(until.saturating_sub(1)).map(|sample| sample.offset)
    }

    fn oldest(&self) -> Option<Sample> {
        self.0.front().copied()
    }
}

/// A history of writes.
#[derive(Debug, Default)]
struct OffsetHistory {
    /// Its primary's offsets.
    primary: Samples,
    /// The greatest offset of all members.
    front: Samples,
    /// The ID of the history that this one continues, and when its primary was last known to be still in that one.
    continues: Option<(Arc<str>, Instant)>,
}

impl OffsetHistory {
    fn note(
        &mut self,
        position: &Position,
        offset: u64,
        began: Instant,
        before: Option<&TrackedMember>,
    ) {
        if !position.is_replica {
            let newest = self.primary.newest();
            if newest.is_some_and(|newest| newest.last < began && newest.offset > offset) {
                *self = Self::default();
            } else if newest.is_none() {
                let was_there = before.filter(|one| one.position.history == position.previous);
                self.continues = was_there.map(|one| (Arc::clone(&position.previous), one.began));
            }
            self.primary.add(began, offset);
        }
        let most = self.front.newest().map_or(offset, |newest| newest.offset.max(offset));
        self.front.add(began, most);
    }

    /// Returns whether a check of the primary that began after that of the member has found less than the member has.
    fn has_less_than(&self, member: &TrackedMember, offset: u64) -> bool {
        let is_after = |newest: &Sample| newest.last >= member.answered;
        self.primary.newest().filter(is_after).is_some_and(|newest| newest.offset < offset)
    }
}

/// A member, as its last answer was.
#[derive(Debug)]
struct TrackedMember {
    position: Position,
    /// When the check began.
    began: Instant,
    /// When it was answered.
    answered: Instant,
    /// Whether a later check was not answered.
    is_failing: bool,
    freshness: Freshness,
}

/// The offsets of all members, and what follows from them.
#[derive(Debug, Default)]
pub struct Offsets {
    members: BTreeMap<BackendId, TrackedMember>,
    histories: HashMap<Arc<str>, OffsetHistory>,
}

impl Offsets {
    /// Takes note of a check that began and was answered at these times.
    pub fn note(&mut self, id: BackendId, position: Position, began: Instant, answered: Instant) {
        let is_told = position.is_ready && !position.history.is_empty();
        if let Some(offset) = position.offset.filter(|_| is_told) {
            let history = self.histories.entry(Arc::clone(&position.history)).or_default();
            history.note(&position, offset, began, self.members.get(&id));
        }
        let freshness = Freshness::Unknown;
        let member = TrackedMember { position, began, answered, is_failing: false, freshness };
        self.members.insert(id, member);
        self.forget_histories();
        self.judge();
    }

    /// Takes note of a check that was not answered.
    pub fn note_failed(&mut self, id: BackendId) {
        let member = self.members.get_mut(&id).filter(|member| !member.is_failing);
        if let Some(member) = member {
            member.is_failing = true;
            self.judge();
        }
    }

    /// Forgets a member that is not checked any more.
    pub fn forget(&mut self, id: BackendId) {
        if self.members.remove(&id).is_some() {
            self.forget_histories();
            self.judge();
        }
    }

    /// Returns how old the data of a member are at most.
    pub fn freshness(&self, id: BackendId) -> Freshness {
        self.members.get(&id).map_or(Freshness::Unknown, |member| member.freshness)
    }

    /// Returns whether another member has data of this one's history, or of one that goes on from it.
    pub fn is_compared(&self, id: BackendId) -> bool {
        self.members.get(&id).is_some_and(|member| {
            let own = &member.position;
            let is_kin =
                |other: &Position| other.history == own.history || own.parted_from(other).is_some();
            let mut others = self.members.iter().filter(|(other, _)| **other != id);
            !own.history.is_empty() && others.any(|(_, other)| is_kin(&other.position))
        })
    }

    /// Returns what a member lacks now.
    pub fn lag(&self, id: BackendId, now: Instant) -> Lag {
        let Some(member) = self.members.get(&id) else { return Lag::default() };
        let staleness = member.freshness.staleness(now);
        if !member.position.is_replica {
            return Lag { bytes: Some(0), staleness, ..Lag::default() };
        }
        let none = Lag { staleness, ..Lag::default() };
        let Some(history) = self.histories.get(&member.position.history) else { return none };
        let is_told = member.position.is_ready && self.is_compared(id);
        let Some(offset) = member.position.offset.filter(|_| is_told) else { return none };
        let is_at_least = self.primaries_of(&member.position.history).next().is_none();
        let samples = if is_at_least { &history.front } else { &history.primary };
        // What was written since its last answer may have arrived. That of one that fails has not been asked since.
        let seen = if member.is_failing { now } else { member.answered };
        let most = samples.known_at(seen);
        let oldest = || samples.oldest().map(|oldest| oldest.last);
        let then = samples.last_at(offset, None).or_else(oldest);
        Lag {
            bytes: most.map(|most| most.saturating_sub(offset)),
            is_at_least,
            staleness,
            age: then.map(|then| now.saturating_duration_since(then)),
        }
    }

    /// Returns the members that are primaries and answer.
    fn primaries(&self) -> impl Iterator<Item = (&BackendId, &TrackedMember)> {
        let is_primary = |member: &TrackedMember| {
            let Position { is_replica, is_ready, .. } = member.position;
            !is_replica && is_ready && !member.is_failing
        };
        self.members.iter().filter(move |(_, member)| is_primary(member))
    }

    fn primaries_of(&self, history: &str) -> impl Iterator<Item = &TrackedMember> {
        let primaries = self.primaries().map(|(_, member)| member);
        primaries.filter(move |member| *member.position.history == *history)
    }

    /// Forgets the histories to which no member's data belong.
    fn forget_histories(&mut self) {
        let members = &self.members;
        let is_of = |member: &TrackedMember, id: &Arc<str>| {
            member.position.history == *id || member.position.previous == *id
        };
        self.histories.retain(|id, _| members.values().any(|member| is_of(member, id)));
    }

    /// Finds anew how old all data are.
    fn judge(&mut self) {
        let in_doubt: Vec<Arc<str>> = self.histories_in_doubt();
        let judged = self.members.values().map(|member| self.freshness_of(member, &in_doubt));
        let judged: Vec<Freshness> = judged.collect();
        for (member, freshness) in self.members.values_mut().zip(judged) {
            member.freshness = freshness;
        }
    }

    /// Returns the histories whose primary may lack writes of another primary.
    fn histories_in_doubt(&self) -> Vec<Arc<str>> {
        let is_in_doubt = |(id, one): &(&BackendId, &TrackedMember)| {
            let mut others = self.primaries().filter(|(other, _)| other != id);
            others.any(|(_, other)| one.position.is_in_doubt_beside(&other.position))
        };
        let in_doubt = self.primaries().filter(is_in_doubt);
        in_doubt.map(|(_, member)| Arc::clone(&member.position.history)).collect()
    }

    fn freshness_of(&self, member: &TrackedMember, in_doubt: &[Arc<str>]) -> Freshness {
        let TrackedMember { position, began, is_failing, .. } = member;
        if !position.is_ready || in_doubt.contains(&position.history) {
            return Freshness::Unknown;
        }
        if !position.is_replica {
            let newest = if *is_failing { Some(*began) } else { self.last_look_at_kin(member) };
            return newest.map_or(Freshness::Current, Freshness::AsOf);
        }
        self.as_of(member).map_or(Freshness::Unknown, Freshness::AsOf)
    }

    /// Returns when other primaries were looked at last that had the same data as this one, and to which clients may write
    /// now; `None` if there are none.
    fn last_look_at_kin(&self, member: &TrackedMember) -> Option<Instant> {
        let others = self.primaries().map(|(_, other)| other);
        let kin = others.filter(|other| member.position.parted_from(&other.position).is_some());
        kin.map(|other| other.began).min()
    }

    /// Returns the latest time at which the primary is known to have had no more than this replica has.
    fn as_of(&self, member: &TrackedMember) -> Option<Instant> {
        let Position { history, previous, previous_end, offset, .. } = &member.position;
        let (history, offset) = (self.histories.get(history)?, (*offset)?);
        if history.has_less_than(member, offset) {
            return None;
        }
        history.primary.last_at(offset, None).or_else(|| {
            let (continued, end) = history.continues.as_ref()?;
            let shared = (*previous_end)?.checked_sub(1)?;
            let before = self.histories.get(continued).filter(|_| continued == previous)?;
            before.primary.last_at(offset.min(shared), Some(*end))
        })
    }
}

#[cfg(test)]
#[path = "lag_tests.rs"]
mod tests;

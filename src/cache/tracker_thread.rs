//! The thread that reads a tracker's connection: invalidations, and the replies that fill the cache, in the order in
//! which Redis has sent them.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::Cache;
use super::check::{InfoSnapshot, needs_flush};
use super::entry::{Content, Entry, MAX_ENTRY_BYTES};
use super::fill::Fill;
use super::position::Stamp;
use super::tracker::{Purpose, Sent, Tracker, write};
use crate::backend::{
    BackendError, Inability, Mode, PooledConnection, WaitPolicy, inability, is_timeout, said,
};
use crate::resp::{Framer, Protocol, command, to_resp2};

/// Longest reply of a server to `INFO`, or longest push.
const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// Longest rest of a reply that is read and dropped. A longer one would hold up invalidations for too long.
const MAX_SKIPPED_BYTES: u64 = 16 * 1024 * 1024;

/// Most bytes that are read at a time.
const READ_BYTES: usize = 64 * 1024;

/// Parts of `--cache-max-silence` after each of which the server is asked whether all is as before.
const CHECKS_IN_SILENCE: u32 = 4;

/// Time after which a tracker that nobody asks ends.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

/// Time for which a read counts that is not worth keeping: it is not asked for in vain meanwhile.
const UNFIT_TIME: Duration = Duration::from_secs(60);

/// First element of an invalidation.
const INVALIDATE: &[u8] = b"invalidate";

/// Stack of the thread, in bytes.
const STACK_BYTES: usize = 256 * 1024;

/// Why a tracker has ended.
#[derive(Debug)]
pub enum End {
    /// Its server can't be tracked, for this reason.
    Refused(String),
    /// The connection has ended, or its backend is in doubt.
    Lost(String),
    /// Nobody has asked for a while.
    Idle,
}

impl End {
    /// The end after an error reply. A server that can't answer anybody has not refused.
    fn of_error(error: String) -> Self {
        match inability(&error) {
            Some(Inability::Server | Inability::Unnoticed) => Self::Lost(error),
            Some(Inability::Request) | None => Self::Refused(error),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<BackendError> for End {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Redis(text) => Self::of_error(text),
            error => Self::Lost(error.to_string()),
        }
    }
}

impl From<crate::resp::Error> for End {
    fn from(error: crate::resp::Error) -> Self {
        BackendError::from(error).into()
    }
}

/// Starts the thread of a tracker.
///
/// # Errors
/// When there can be none.
pub fn start(cache: &Arc<Cache>, tracker: &Arc<Tracker>) -> io::Result<()> {
    let (cache, tracker) = (Arc::clone(cache), Arc::clone(tracker));
    let thread = thread::Builder::new().name("tracker".to_owned()).stack_size(STACK_BYTES);
    let run = move || {
        let read = AssertUnwindSafe(|| match Reader::connect(&cache, &tracker) {
            Ok(mut reader) => reader.run(),
            Err(end) => end,
        });
        // Whatever happens, nobody waits for it any longer, and another may begin.
        let end = catch_unwind(read).unwrap_or_else(|_| End::Lost("an error of ours".to_owned()));
        tracker.end();
        cache.ended(&tracker, end);
    };
    thread.spawn(run).map(|_| ())
}

/// The state of the thread.
struct Reader<'a> {
    cache: &'a Cache,
    tracker: &'a Tracker,
    /// Holds the connection's place in the pool.
    _connection: PooledConnection,
    /// Purpose the next replies answer.
    sent: VecDeque<Sent>,
    /// Bytes that were read and not handled.
    buffer: Vec<u8>,
    /// Start of the next frame in it.
    start: usize,
    /// End of the part of it that was looked at.
    looked: usize,
    framer: Framer,
    /// Whether the beginning of the next frame was dropped, because the frame is too long.
    is_skipping: bool,
    /// The reply to the `PTTL` of the fill that is answered next: the stamp of its value, if that is to be kept.
    expiry: Option<Option<Stamp>>,
    /// Purpose the last `INFO` has said.
    seen: Option<InfoSnapshot>,
    /// When `INFO` was sent last.
    checked_at: Instant,
    is_check_pending: bool,
    used_at: Instant,
}

impl<'a> Reader<'a> {
    fn connect(cache: &'a Cache, tracker: &'a Tracker) -> Result<Self, End> {
        let mode = Mode { database: tracker.database, protocol: Protocol::Resp3 };
        let wait_policy = WaitPolicy::Until(Instant::now() + tracker.member.timeouts.timeout());
        let tracking = command("CLIENT").arg("TRACKING").arg("ON").into_bytes();
        let mut connection = tracker.member.request(mode, &tracking, wait_policy, |_| true)?;
        let mut reply = Vec::new();
        connection.hold(&mut reply, MAX_FRAME_BYTES)?;
        if let Some(error) = said(&reply) {
            return Err(End::of_error(error));
        }
        let stream = Arc::clone(connection.stream());
        stream.set_read_timeout(step(tracker))?;
        _ = tracker.stream.set(stream);
        let now = Instant::now();
        let reader = Self {
            cache,
            tracker,
            _connection: connection,
            sent: VecDeque::new(),
            buffer: Vec::new(),
            start: 0,
            looked: 0,
            framer: Framer::new(),
            is_skipping: false,
            expiry: None,
            seen: None,
            checked_at: now,
            is_check_pending: false,
            used_at: now,
        };
        Ok(reader)
    }

    fn run(&mut self) -> End {
        self.ask();
        loop {
            if let Err(end) = self.read().and_then(|()| self.look_after()) {
                return end;
            }
        }
    }

    /// Reads some bytes, and handles the frames that are whole.
    fn read(&mut self) -> Result<(), End> {
        let Some(stream) = self.tracker.stream.get() else { return Ok(()) };
        let end = self.buffer.len();
        self.buffer.resize(end + READ_BYTES, 0);
        let read = (&**stream).read(&mut self.buffer[end..]);
        self.buffer.truncate(end + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => return Err(End::Lost("the server has closed the connection".to_owned())),
            Ok(_) => {}
            Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        let answered = self.handle_frames()?;
        self.tracker.pipeline.answered(answered, |bytes| write(stream, bytes))?;
        Ok(())
    }

    /// Does what is due now and then.
    fn look_after(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.tracker.is_doubtful() {
            return Err(End::Lost("its backend is in doubt".to_owned()));
        }
        if self.is_check_pending && now.duration_since(self.checked_at) > self.tracker.max_silence {
            return Err(End::Lost("silent".to_owned()));
        }
        if !self.is_check_pending && now.duration_since(self.checked_at) >= step(self.tracker) {
            self.ask();
            if self.tracker.is_used.swap(false, Ordering::Relaxed) {
                self.used_at = now;
            }
        }
        if now.duration_since(self.used_at) > MAX_IDLE_TIME { Err(End::Idle) } else { Ok(()) }
    }

    /// Asks whether all is as before; if too much waits to be sent, the next time.
    fn ask(&mut self) {
        let info = command("INFO").arg("server").arg("commandstats").into_bytes();
        if self.tracker.send(Purpose::Check, &info) {
            (self.is_check_pending, self.checked_at) = (true, Instant::now());
        }
    }

    /// Handles the frames that have come; returns how many commands are answered.
    fn handle_frames(&mut self) -> Result<usize, End> {
        let mut answered = 0;
        while self.looked < self.buffer.len() {
            self.looked += self.framer.feed(&self.buffer[self.looked..])?;
            if !self.framer.is_done() {
                break;
            }
            let framer = std::mem::take(&mut self.framer);
            let frame = self.buffer[self.start..self.looked].to_vec();
            self.start = self.looked;
            let is_whole = !std::mem::take(&mut self.is_skipping);
            let frame = is_whole.then_some(&*frame);
            match framer.kind() {
                Some(b'>') => self.invalidate(frame),
                _ => answered += usize::from(self.reply(frame)?),
            }
        }
        self.make_room()?;
        Ok(answered)
    }

    /// Drops what is handled, and of a frame that is too long all that has come.
    fn make_room(&mut self) -> Result<(), End> {
        let length = (self.looked - self.start) as u64 + self.framer.announced_bytes();
        let is_push = self.framer.kind() == Some(b'>');
        let max = match self.next_purpose() {
            Some(Purpose::Fill(_)) if !is_push => MAX_ENTRY_BYTES,
            _ => MAX_FRAME_BYTES,
        };
        if self.is_skipping || length > max as u64 {
            if let Some(Purpose::Fill(fill)) = self.sent.front().map(|sent| &sent.purpose) {
                self.cache.note_too_long(fill);
            }
            if self.framer.announced_bytes() > MAX_SKIPPED_BYTES {
                return Err(End::Lost("a reply is too long".to_owned()));
            }
            self.is_skipping = true;
            self.start = self.looked;
        }
        self.buffer.drain(..self.start);
        self.looked -= self.start;
        self.start = 0;
        Ok(())
    }

    /// Purpose the next reply answers.
    fn next_purpose(&mut self) -> Option<&Purpose> {
        if self.sent.is_empty() {
            self.tracker.pipeline.take_written(&mut self.sent);
        }
        self.sent.front().map(|sent| &sent.purpose)
    }

    /// Takes note of a push. An invalidation that can't be read may be of any key.
    fn invalidate(&self, frame: Option<&[u8]>) {
        match frame.map_or(Push::AllKeys, push) {
            Push::Key(key) => {
                let place = self.cache.versions.place(self.tracker.member.id, key);
                self.cache.versions.raise(place);
                self.cache.metrics.cache.invalidations.add_one();
            }
            Push::AllKeys => self.flush(),
            Push::Other => {}
        }
    }

    fn flush(&self) {
        self.tracker.position.flush();
        self.cache.metrics.cache.flushes.add_one();
        self.cache.store.drop_all_of(self.tracker.number);
    }

    /// Takes a reply; returns whether the commands that were sent with its own are all answered.
    fn reply(&mut self, frame: Option<&[u8]>) -> Result<bool, End> {
        self.next_purpose();
        let Some(Sent { at, purpose }) = self.sent.pop_front() else {
            return Err(End::Lost("a reply that nobody asked for".to_owned()));
        };
        let is_check = matches!(purpose, Purpose::Check);
        match &purpose {
            Purpose::Sync => {}
            Purpose::Check => self.check(frame)?,
            Purpose::Fill(fill) => match self.expiry.take() {
                None => {
                    if let Some(error) = frame.and_then(said) {
                        return Err(End::of_error(format!("PTTL: {error}")));
                    }
                    self.expiry = Some(self.stamp(fill, frame));
                    self.sent.push_front(Sent { at, purpose });
                    return Ok(false);
                }
                Some(stamp) => self.fill(fill, stamp, frame),
            },
        }
        if is_check && self.tracker.position.as_of() == 0 {
            self.cache.begun(self.tracker);
        }
        self.tracker.answered(at, is_check);
        Ok(true)
    }

    /// Looks at what `INFO` says.
    fn check(&mut self, frame: Option<&[u8]>) -> Result<(), End> {
        self.is_check_pending = false;
        let frame = frame.ok_or_else(|| End::Refused("its INFO is too long".to_owned()))?;
        if let Some(error) = said(frame) {
            return Err(End::of_error(error));
        }
        let now = InfoSnapshot::parse(&String::from_utf8_lossy(frame));
        if let Some(why) = now.refusal() {
            return Err(End::Refused(why));
        }
        if let Some(before) = self.seen.replace(now)
            && self.seen.as_ref().is_some_and(|now| needs_flush(&before, now))
        {
            self.flush();
        }
        Ok(())
    }

    /// The stamp of a fill's value, by the reply to the `PTTL` that was sent before it; `None` if it is not to be kept.
    fn stamp(&self, fill: &Fill, ttl: Option<&[u8]>) -> Option<Stamp> {
        let left = ttl_left(ttl?)?.min(fill.max_time);
        let ends_at = fill.sent_at.saturating_add(nanos(left));
        Some(self.tracker.position.stamp(&self.cache.versions, fill.place, ends_at))
    }

    /// Keeps the value of a fill, and gives it to those who wait.
    fn fill(&self, fill: &Fill, stamp: Option<Stamp>, reply: Option<&[u8]>) {
        let content = content(fill, reply);
        self.tracker.forget_fill(fill);
        let Some(content) = content else { return fill.finish(None) };
        // Without a stamp that still counts, the reply is good for those who wait for it, and nobody else.
        let (position, versions) = (&self.tracker.position, &self.cache.versions);
        let kept = stamp.filter(|stamp| stamp.is_current(position, versions, fill.sent_at));
        let mut stamp = kept.unwrap_or_else(|| position.stamp(versions, fill.place, fill.sent_at));
        if matches!(content, Content::Unfit) {
            stamp = stamp.until(fill.sent_at.saturating_add(nanos(UNFIT_TIME)));
        }
        let entry = Arc::new(Entry { stamp, asked_at: fill.sent_at, content });
        if kept.is_some() {
            self.keep(fill, &entry);
        }
        fill.finish(Some(entry));
    }
}

impl Reader<'_> {
    /// Keeps an entry; of one that is too long in both forms, that it is not worth asking for.
    fn keep(&self, fill: &Fill, entry: &Arc<Entry>) {
        let is_short = entry.bytes(&fill.key) <= MAX_ENTRY_BYTES;
        let entry = match is_short {
            true => Arc::clone(entry),
            false => {
                self.cache.note_too_long(fill);
                let stamp = entry.stamp.until(fill.sent_at.saturating_add(nanos(UNFIT_TIME)));
                Arc::new(Entry { stamp, asked_at: fill.sent_at, content: Content::Unfit })
            }
        };
        self.cache.store.insert(fill.key.clone(), entry);
    }
}

/// Purpose a push says.
#[derive(Debug, PartialEq, Eq)]
enum Push<'a> {
    /// This key is invalid.
    Key(&'a [u8]),
    /// All keys are.
    AllKeys,
    /// Something else.
    Other,
}

/// Reads a push. Redis sends one for each key (tracking.c: sendTrackingMessage), and null for all keys.
fn push(frame: &[u8]) -> Push<'_> {
    let Some(what) = frame.strip_prefix(b">2\r\n$10\r\ninvalidate\r\n") else {
        return match frame.windows(INVALIDATE.len()).any(|window| window == INVALIDATE) {
            true => Push::AllKeys,
            false => Push::Other,
        };
    };
    let key = || {
        let rest = what.strip_prefix(b"*1\r\n$")?;
        let line = rest.iter().position(|&byte| byte == b'\r')?;
        let length: usize = std::str::from_utf8(&rest[..line]).ok()?.parse().ok()?;
        let key = rest.get(line + 2..)?.strip_suffix(b"\r\n")?;
        (key.len() == length).then_some(key)
    };
    key().map_or(Push::AllKeys, Push::Key)
}

/// Purpose is kept of the reply to a fill; `None` for an error that says nothing of the read.
fn content(fill: &Fill, reply: Option<&[u8]>) -> Option<Content> {
    let Some(reply) = reply else { return Some(Content::Unfit) };
    if let Some(error) = said(reply) {
        return inability(&error).is_none().then_some(Content::Unfit);
    }
    let Some(resp2) = to_resp2(reply, fill.form) else { return Some(Content::Unfit) };
    let resp3 = (*resp2 != *reply).then(|| reply.into());
    Some(Content::Reply { resp2: resp2.into(), resp3 })
}

/// How long a key has to live by the reply to `PTTL`: for ever, if it has no expiry or does not exist. `None` if that can't
/// be known, or its time is up.
fn ttl_left(reply: &[u8]) -> Option<Duration> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    match std::str::from_utf8(digits).ok()?.parse::<i64>().ok()? {
        -1 | -2 => Some(Duration::MAX),
        left => u64::try_from(left).ok().filter(|&left| left > 0).map(Duration::from_millis),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Time between two looks around, and two checks.
fn step(tracker: &Tracker) -> Duration {
    tracker.max_silence / CHECKS_IN_SILENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_name_a_key_or_mean_all() {
        let key = |key: &'static str| Push::Key(key.as_bytes());
        for (frame, expected) in [
            (">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n", key("key")),
            (">2\r\n$10\r\ninvalidate\r\n*1\r\n$0\r\n\r\n", key("")),
            (">2\r\n$10\r\ninvalidate\r\n*1\r\n$4\r\n\r\n\r\n\r\n", key("\r\n\r\n")),
            (">2\r\n$10\r\ninvalidate\r\n_\r\n", Push::AllKeys),
            (">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n", Push::AllKeys),
            (">2\r\n+invalidate\r\n*1\r\n$3\r\nkey\r\n", Push::AllKeys),
            (">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n", Push::Other),
        ] {
            assert_eq!(push(frame.as_bytes()), expected, "{frame:?}");
        }
    }

    #[test]
    fn the_time_that_a_key_has_left_is_what_redis_says() {
        for (reply, expected) in [
            (":-1\r\n", Some(Duration::MAX)),
            (":-2\r\n", Some(Duration::MAX)),
            (":1500\r\n", Some(Duration::from_millis(1500))),
            (":0\r\n", None),
            (":-3\r\n", None),
            ("-ERR no\r\n", None),
            (":x\r\n", None),
        ] {
            assert_eq!(ttl_left(reply.as_bytes()), expected, "{reply:?}");
        }
    }
}

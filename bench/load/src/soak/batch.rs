//! A random pipeline and the replies that it must get.

use std::ops::Range;

use super::Random;
use super::data::{self, Item, Table, bulk};
use crate::wire;

const MAX_COMMANDS: usize = 32;

#[derive(Default)]
pub struct Batch<'a> {
    /// Bytes of all commands.
    pub requests: Vec<u8>,
    /// Range of each command in `requests`.
    places: Vec<Range<usize>>,
    replies: Vec<Reply<'a>>,
    /// Bytes of the replies that depend on the session.
    session_replies: Vec<u8>,
}

enum Reply<'a> {
    /// The reply from the table.
    Fixed(&'a [u8]),
    /// Range in [`Batch::session_replies`].
    Session(Range<usize>),
}

/// State of a session that its replies depend on.
pub struct Session {
    pub client: usize,
    pub database: usize,
    pub is_resp3: bool,
    /// Tokens sent by this client so far; makes each token unique.
    pub tokens: u64,
}

impl<'a> Batch<'a> {
    pub fn refill(&mut self, tables: &'a [Table], session: &mut Session, random: &mut Random) {
        self.requests.clear();
        self.places.clear();
        self.replies.clear();
        self.session_replies.clear();
        for _ in 0..1 + random.below(MAX_COMMANDS) {
            let table = &tables[data::table_index(session.database, session.is_resp3)];
            match random.below(1000) {
                0 => {
                    session.database = random.below(data::DATABASES);
                    self.push_for_session(&["SELECT", &session.database.to_string()], "+OK\r\n");
                }
                1 => self.push(random.pick(&table.long)),
                2..30 => self.push(random.pick(&table.odd)),
                30..60 => {
                    session.tokens += 1;
                    let token = format!("token {} of client {}", session.tokens, session.client);
                    self.push_for_session(&["ECHO", &token], &bulk(&token));
                }
                _ => {
                    let items: &Vec<Item> = random.pick(&table.usual);
                    self.push(random.pick(items));
                }
            }
        }
    }

    fn push(&mut self, item: &'a Item) {
        self.push_request(&item.request);
        self.replies.push(Reply::Fixed(&item.reply));
    }

    fn push_for_session(&mut self, words: &[&str], reply: &str) {
        self.push_request(&wire::command(words));
        let start = self.session_replies.len();
        self.session_replies.extend(reply.as_bytes());
        self.replies.push(Reply::Session(start..self.session_replies.len()));
    }

    fn push_request(&mut self, request: &[u8]) {
        let start = self.requests.len();
        self.requests.extend(request);
        self.places.push(start..self.requests.len());
    }

    pub fn len(&self) -> usize {
        self.replies.len()
    }

    pub fn request(&self, index: usize) -> &[u8] {
        &self.requests[self.places[index].clone()]
    }

    pub fn reply(&self, index: usize) -> &[u8] {
        match &self.replies[index] {
            Reply::Fixed(bytes) => bytes,
            Reply::Session(place) => &self.session_replies[place.clone()],
        }
    }

    /// Returns a length of `requests` that cuts the last command in two.
    pub fn cut(&self, random: &mut Random) -> usize {
        let last = self.places.last().cloned().unwrap_or_default();
        last.start + 1 + random.below(last.len() - 1)
    }
}

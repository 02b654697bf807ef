//! Messages of DNS: a question to bytes, and bytes to what they answer to it. RFC 1035, 2782 and 3596.

use std::net::IpAddr;
use std::time::Duration;

use simple_dns::rdata::{CNAME, RData, SRV};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question as RawQuestion, RCODE, ResourceRecord,
    TYPE, header_buffer,
};

/// Most names that lead to each other by CNAME. BIND follows 16.
const MAX_ALIASES: usize = 16;

/// Length of a message's head in bytes.
const HEAD_BYTES: usize = 12;

/// Shortest question: the root's name, type and class.
const MIN_QUESTION_BYTES: usize = 5;

/// Shortest record: the root's name, type, class, time to live, and the length of nothing.
const MIN_RECORD_BYTES: usize = 11;

/// Type of the records that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RecordType {
    /// Addresses of IPv4.
    A,
    /// Addresses of IPv6.
    Aaaa,
    /// Servers of a service.
    Srv,
}

impl RecordType {
    fn code(self) -> TYPE {
        match self {
            Self::A => TYPE::A,
            Self::Aaaa => TYPE::AAAA,
            Self::Srv => TYPE::SRV,
        }
    }

    /// Returns its name in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
        }
    }
}

/// An SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// The lowest comes first.
    pub priority: u16,
    /// Share among those of its priority.
    pub weight: u16,
    /// Port of the server.
    pub port: u16,
    /// Name of the server; empty if the service does not exist.
    pub target: String,
}

/// The records of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Records {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its servers.
    pub services: Vec<Service>,
    /// Addresses that came along, by the names that have them.
    pub additional: Vec<(String, IpAddr)>,
    /// Shortest time for which one of them is good.
    pub time_to_live: Duration,
}

/// Reason why a name has no records of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// The name does not exist.
    NoSuchName,
    /// The name exists, and has none of this type.
    NoRecords,
}

/// What a nameserver has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Response {
    /// The records that were asked for, or that there are none.
    Answer(Result<Records, Absence>),
    /// The whole answer needs TCP.
    Truncated,
    /// The nameserver can't say, by this code or for this reason.
    Failed(String),
}

/// Reason why a message answers nothing that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// It is no answer, or has the number of another question.
    #[error("sent something that answers no question of ours")]
    Foreign,
    /// It repeats another question.
    #[error("answered another question")]
    OtherQuestion,
    /// It can't be read.
    #[error("sent an answer that can't be read")]
    Malformed,
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question<'a> {
    /// Number by which the answer is known.
    pub id: u16,
    /// The whole name.
    pub name: &'a str,
    /// What is asked of it.
    pub record_type: RecordType,
}

impl Question<'_> {
    /// Returns the question as bytes; `None` if the name can't be a name in DNS.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let name = Name::new(self.name).ok().filter(|name| !name.get_labels().is_empty())?;
        let mut packet = Packet::new_query(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let (qtype, qclass) = (QTYPE::TYPE(self.record_type.code()), QCLASS::CLASS(CLASS::IN));
        packet.questions.push(RawQuestion::new(name, qtype, qclass, false));
        packet.build_bytes_vec().ok()
    }

    /// Reads the answer to it.
    ///
    /// # Errors
    /// The message answers something else.
    pub fn read(&self, message: &[u8]) -> Result<Response, Unfit> {
        let is_response = header_buffer::has_flags(message, PacketFlag::RESPONSE);
        let is_ours = header_buffer::id(message).is_ok_and(|id| id == self.id);
        if !is_ours || !is_response.unwrap_or_default() {
            return Err(Unfit::Foreign);
        }
        // What is cut off may end within a record.
        if header_buffer::has_flags(message, PacketFlag::TRUNCATION).unwrap_or_default() {
            return Ok(Response::Truncated);
        }
        if !has_room_for_its_records(message) {
            return Err(Unfit::Malformed);
        }
        let packet = Packet::parse(message).map_err(|_| Unfit::Malformed)?;
        let name = Name::new(self.name).map_err(|_| Unfit::OtherQuestion)?;
        let has_answer = matches!(packet.rcode(), RCODE::NoError | RCODE::NameError);
        let is_same = |question: &RawQuestion<'_>| {
            question.qname == name && question.qtype == QTYPE::TYPE(self.record_type.code())
        };
        match packet.questions.as_slice() {
            [question] if is_same(question) => {}
            // A server that understood nothing may repeat nothing.
            [] if !has_answer => {}
            _ => return Err(Unfit::OtherQuestion),
        }
        Ok(match packet.rcode() {
            RCODE::NoError => self.records(name, &packet),
            RCODE::NameError => Response::Answer(Err(Absence::NoSuchName)),
            RCODE::ServerFailure => Response::Failed("answers SERVFAIL".to_owned()),
            RCODE::Refused => Response::Failed("answers REFUSED".to_owned()),
            other => Response::Failed(format!("answers the error {}", other as u16)),
        })
    }

    /// Finds the records of the name, or of the name that it is an alias of.
    fn records<'a>(&self, mut name: Name<'a>, packet: &Packet<'a>) -> Response {
        let mut time_to_live = u32::MAX;
        for _ in 0..=MAX_ALIASES {
            let of_name = packet.answers.iter().filter(|record| record.name == name);
            let is_asked = |record: &&ResourceRecord<'_>| {
                record.rdata.type_code() == self.record_type.code() && record.class == CLASS::IN
            };
            let found: Vec<_> = of_name.clone().filter(is_asked).collect();
            if !found.is_empty() {
                let shortest = found.iter().map(|record| record.ttl).min().unwrap_or_default();
                let records = records(&found, packet, time_to_live.min(shortest));
                return Response::Answer(Ok(records));
            }
            let mut aliases = of_name.filter_map(|record| match &record.rdata {
                RData::CNAME(CNAME(target)) => Some((record.ttl, target.clone())),
                _ => None,
            });
            let Some((ttl, target)) = aliases.next() else {
                return Response::Answer(Err(Absence::NoRecords));
            };
            time_to_live = time_to_live.min(ttl);
            name = target;
        }
        Response::Failed(format!("answers with more than {MAX_ALIASES} CNAMEs, or with a circle"))
    }
}

/// Whether a message is as long as its head says at least, so that nothing is allocated for what is not there.
fn has_room_for_its_records(message: &[u8]) -> bool {
    let count = |count: simple_dns::Result<u16>| usize::from(count.unwrap_or(u16::MAX));
    let records = [
        header_buffer::answers(message),
        header_buffer::name_servers(message),
        header_buffer::additional_records(message),
    ];
    let records: usize = records.into_iter().map(count).sum();
    let questions = count(header_buffer::questions(message));
    let least = HEAD_BYTES + questions * MIN_QUESTION_BYTES + records * MIN_RECORD_BYTES;
    message.len() >= least
}

fn records(found: &[&ResourceRecord<'_>], packet: &Packet<'_>, time_to_live: u32) -> Records {
    let services = found.iter().filter_map(|record| match &record.rdata {
        RData::SRV(SRV { priority, weight, port, target }) => Some(Service {
            priority: *priority,
            weight: *weight,
            port: *port,
            target: text(target),
        }),
        _ => None,
    });
    let additional: Vec<_> = packet
        .additional_records
        .iter()
        .filter_map(|record| Some((text(&record.name), address(record)?, record.ttl)))
        .collect();
    let shortest = additional.iter().map(|(_, _, ttl)| *ttl).min().unwrap_or(u32::MAX);
    Records {
        addresses: found.iter().filter_map(|record| address(record)).collect(),
        services: services.collect(),
        additional: additional.into_iter().map(|(name, address, _)| (name, address)).collect(),
        time_to_live: Duration::from_secs(time_to_live.min(shortest).into()),
    }
}

/// Returns the address in a record.
fn address(record: &ResourceRecord<'_>) -> Option<IpAddr> {
    match &record.rdata {
        RData::A(a) => Some(IpAddr::V4(a.address.into())),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.address.into())),
        _ => None,
    }
}

/// Returns a name as text, without regard to its case.
fn text(name: &Name<'_>) -> String {
    name.to_string().to_ascii_lowercase()
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;

//! What servers say of the replication links between them.

/// The replication links of a server, as its `INFO` has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// The port on which it listens; 0 where unknown.
    pub port: u16,
    /// The port of its primary; `None` for a primary.
    pub primary_port: Option<u16>,
    /// The ports of its replicas that get all of its data now, or are about to.
    pub filled: Vec<u16>,
}

impl Links {
    /// Reads the fields of `INFO`.
    pub(super) fn read<'a>(field: impl Fn(&str) -> Option<&'a str>) -> Self {
        let port = |name: &str| field(name).and_then(|port| port.parse().ok());
        let replicas = (0..).map_while(|number: usize| field(&format!("slave{number}")));
        Self {
            port: port("tcp_port").unwrap_or(0),
            primary_port: port("master_port"),
            filled: replicas.filter_map(filled_port).collect(),
        }
    }
}

/// A replica as its primary's `INFO` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnouncedReplica<'a> {
    /// The address that it has announced, or from which it came.
    pub host: &'a str,
    /// The port that it has announced; 0 if it has not.
    pub port: u16,
    /// How far the primary is with it, such as `online`.
    pub state: &'a str,
}

impl<'a> AnnouncedReplica<'a> {
    /// Reads `ip=10.0.0.2,port=6379,state=online,offset=1,lag=0`.
    pub fn read(fields: &'a str) -> Option<Self> {
        let field = |wanted: &str| {
            let mut pairs = fields.split(',').filter_map(|field| field.split_once('='));
            pairs.find_map(|(name, value)| (name == wanted).then_some(value))
        };
        Some(Self {
            host: field("ip")?,
            port: field("port")?.parse().ok()?,
            state: field("state").unwrap_or_default(),
        })
    }
}

/// Returns the port of a replica that gets all data, or is about to.
fn filled_port(fields: &str) -> Option<u16> {
    let replica = AnnouncedReplica::read(fields)?;
    matches!(replica.state, "wait_bgsave" | "send_bulk").then_some(replica.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_filled_are_told_from_those_that_have_their_data() {
        let fields = [
            ("tcp_port", "6379"),
            ("slave0", "ip=h,port=1,state=online,offset=1,lag=0"),
            ("slave1", "ip=h,port=2,state=wait_bgsave,offset=0,lag=0"),
            ("slave2", "ip=h,port=3,state=send_bulk,offset=0,lag=0"),
            ("slave3", "broken"),
            ("slave5", "ip=h,port=4,state=send_bulk"),
        ];
        let field = |name: &str| {
            fields.iter().find_map(|(known, value)| (*known == name).then_some(*value))
        };
        let expected = Links { port: 6379, primary_port: None, filled: vec![2, 3] };
        assert_eq!(Links::read(field), expected);
        let of_replica = |name: &str| (name == "master_port").then_some("7");
        assert_eq!(Links::read(of_replica).primary_port, Some(7));
    }
}

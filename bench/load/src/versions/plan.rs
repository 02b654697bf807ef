//! What a run is told.

use std::error::Error;
use std::time::Duration;

pub struct Plan {
    pub lb: u16,
    pub primary: u16,
    /// The name that the balancer has for each server, and the server's own port.
    pub backends: Vec<(String, u16)>,
    /// Ports at which the balancer finds the servers, and theirs.
    pub relays: Vec<(u16, u16)>,
    pub clients: usize,
    pub reads: u64,
    pub time: Duration,
    /// What the balancer has as `--cache-max-silence`.
    pub max_silence: Duration,
    pub faults: bool,
}

impl Plan {
    pub fn from_flags(flags: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut plan = Self {
            lb: 0,
            primary: 0,
            backends: Vec::new(),
            relays: Vec::new(),
            clients: 50,
            reads: 100_000_000,
            time: Duration::from_secs(3600),
            max_silence: Duration::from_secs(1),
            faults: false,
        };
        let (pairs, rest) = flags.as_chunks::<2>();
        for [flag, value] in pairs {
            let pair = || value.split_once('=').ok_or(format!("cache: no = in {flag} {value}"));
            match *flag {
                "--lb" => plan.lb = value.parse()?,
                "--primary" => plan.primary = value.parse()?,
                "--backend" => plan.backends.push((pair()?.0.to_owned(), pair()?.1.parse()?)),
                "--relay" => plan.relays.push((pair()?.0.parse()?, pair()?.1.parse()?)),
                "--clients" => plan.clients = value.parse()?,
                "--reads" => plan.reads = value.parse()?,
                "--seconds" => plan.time = Duration::from_secs(value.parse()?),
                "--max-silence-ms" => plan.max_silence = Duration::from_millis(value.parse()?),
                "--faults" => plan.faults = *value == "1",
                _ => return Err(format!("cache: unknown flag {flag}").into()),
            }
        }
        if plan.lb == 0 || plan.primary == 0 || plan.backends.is_empty() || !rest.is_empty() {
            return Err("cache: --lb, --primary and --backend are required".into());
        }
        Ok(plan)
    }
}

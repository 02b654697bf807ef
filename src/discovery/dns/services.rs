//! What the priorities and weights of SRV records mean for backends. RFC 2782.

use super::message::Service;
use crate::config::backend::MAX_WEIGHT;

/// A service record as a backend has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// Name of the server.
    pub target: String,
    /// Port of the server.
    pub port: u16,
    /// Its weight as that of a backend.
    pub weight: u16,
    /// Whether others have a better priority.
    pub is_backup: bool,
}

/// Puts records in the order of their priority, then of their weight, and gives each the weight of a backend. Those of the
/// lowest priority are normal; all others are backups. Records that name no server are left out.
pub(super) fn shares(mut services: Vec<Service>) -> Vec<Share> {
    services.retain(|service| service.port != 0 && !service.target.is_empty());
    services.sort_by(|a, b| {
        let order = |service: &Service| (service.priority, u16::MAX - service.weight, service.port);
        order(a).cmp(&order(b)).then_with(|| a.target.cmp(&b.target))
    });
    let best = services.first().map_or(0, |service| service.priority);
    services
        .chunk_by(|a, b| a.priority == b.priority)
        .flat_map(|group| {
            let weights: Vec<u16> = group.iter().map(|service| service.weight).collect();
            group.iter().zip(scaled(&weights))
        })
        .map(|(service, weight)| {
            let Service { priority, port, target, .. } = service.clone();
            Share { target, port, weight, is_backup: priority != best }
        })
        .collect()
}

/// Returns the weights of one priority as those of backends, in proportion and as small as they can be: servers of equal
/// weight have the weight 1, as those that are named one by one. A record of weight 0 gets the smallest share there
/// is beside others, as the RFC asks, not none.
fn scaled(weights: &[u16]) -> Vec<u16> {
    let most = weights.iter().copied().max().unwrap_or(0);
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let is_small = !weights.contains(&0) && most / divisor <= MAX_WEIGHT;
    let scale = |weight: u16| match (most, is_small) {
        (0, _) => 1,
        (_, true) => weight / divisor,
        (most, false) => {
            let (weight, most) = (u32::from(weight), u32::from(most));
            let rounded = (weight * u32::from(MAX_WEIGHT) + most / 2) / most;
            u16::try_from(rounded).unwrap_or(MAX_WEIGHT).max(1)
        }
    };
    weights.iter().map(|weight| scale(*weight)).collect()
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stay_in_proportion_and_none_is_zero() {
        for (weights, expected) in [
            (&[][..], &[][..]),
            (&[0], &[1]),
            (&[0, 0], &[1, 1]),
            (&[33, 33, 33], &[1, 1, 1]),
            (&[10, 20, 70], &[1, 2, 7]),
            (&[256, 255], &[256, 255]),
            (&[65535, 65534, 1], &[256, 256, 1]),
            (&[1000, 501], &[256, 128]),
            (&[10, 0], &[256, 1]),
            (&[20, 10, 0], &[256, 128, 1]),
        ] {
            assert_eq!(scaled(weights), expected, "{weights:?}");
        }
    }

    #[test]
    fn the_lowest_priority_is_normal_and_all_others_are_backups() {
        let service = |priority, weight, port, target: &str| Service {
            priority,
            weight,
            port,
            target: target.to_owned(),
        };
        let services = vec![
            service(20, 5, 6379, "d"),
            service(30, 0, 6379, "e"),
            service(10, 1, 6379, "b"),
            service(10, 3, 6380, "a"),
            service(10, 1, 6379, "a"),
            service(0, 1, 0, "no port"),
            service(0, 1, 6379, ""),
        ];
        let shares = shares(services);
        let told: Vec<_> = shares
            .iter()
            .map(|Share { target, port, weight, is_backup }| {
                (target.as_str(), *port, *weight, *is_backup)
            })
            .collect();
        assert_eq!(
            told,
            [
                ("a", 6380, 3, false),
                ("a", 6379, 1, false),
                ("b", 6379, 1, false),
                ("d", 6379, 1, true),
                ("e", 6379, 1, true),
            ]
        );
    }
}

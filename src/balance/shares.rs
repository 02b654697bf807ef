//! The share of the leases that each backend of the best standing should have, as pure arithmetic.
//!
//! **Zones.** Of the leases, the own zone gets 1.4 times the part of its weight that is up, at most all of them; the
//! other zones get the rest. So a zone with three backends keeps everything while all are up, keeps 93 % when one has
//! gone, and 47 % when one is left, which is then not overrun.

/// How much more than its part of the weight the rest of a zone takes when backends there are gone. Envoy has the
/// same factor for its localities (`overprovisioning_factor`, 140 %).
pub const ZONE_OVERPROVISIONING: f64 = 1.4;

/// A backend that may be leased now, or one of its zone that may not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weighed {
    /// The weight by which it shares with others now; 0 if others are leased in its place.
    pub weight: f64,
    /// The weight that counts as being up in its zone: that of a backend which is busy counts as well.
    pub up: f64,
    /// The weight that it would have if all were well.
    pub full: f64,
    /// Whether it is in another zone than the balancer.
    pub is_across: bool,
}

/// Returns the part of the leases that stays in the own zone, given the weight there that is up, and all of it.
pub fn zone_part(up: f64, full: f64) -> f64 {
    if full <= 0.0 { 0.0 } else { (ZONE_OVERPROVISIONING * up / full).min(1.0) }
}

/// Sets the weights to shares, whose sum is 1 (or 0 if nobody has a weight).
pub fn divide(backends: &mut [Weighed]) {
    let sum = |of: fn(&Weighed) -> f64, is_across: bool| -> f64 {
        backends.iter().filter(|one| one.is_across == is_across).map(of).sum()
    };
    let (own, others) = (sum(|one| one.weight, false), sum(|one| one.weight, true));
    let part = match (own > 0.0, others > 0.0) {
        (true, true) => zone_part(sum(|one| one.up, false), sum(|one| one.full, false)),
        (is_own, _) => f64::from(is_own),
    };
    for one in backends {
        let (part, sum) = if one.is_across { (1.0 - part, others) } else { (part, own) };
        one.weight = if sum > 0.0 { one.weight * part / sum } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_of_the_rule_of_zones() {
        for (up, full, expected) in [
            (3.0, 3.0, 1.0),
            (2.2, 3.0, 1.0),
            (2.0, 3.0, 0.933),
            (1.0, 3.0, 0.467),
            (0.3, 3.0, 0.14),
            (0.0, 3.0, 0.0),
            (1.0, 1.0, 1.0),
            (0.0, 0.0, 0.0),
        ] {
            let found = zone_part(up, full);
            assert!((found - expected).abs() < 0.001, "{up} of {full}: {found}");
        }
    }

    /// The shares of backends, each given by its weight, what is up of that, and whether it is across.
    fn shares(backends: &[(f64, f64, bool)]) -> Vec<f64> {
        let one = |&(full, up, is_across)| Weighed { weight: up, up, full, is_across };
        let mut all: Vec<Weighed> = backends.iter().map(one).collect();
        divide(&mut all);
        all.iter().map(|one| (one.weight * 1000.0).round() / 1000.0).collect()
    }

    #[test]
    fn shares_follow_weights_and_the_own_zone_comes_first() {
        assert_eq!(shares(&[(1.0, 1.0, false), (3.0, 3.0, false)]), [0.25, 0.75]);
        assert_eq!(shares(&[(1.0, 1.0, false), (1.0, 1.0, true)]), [1.0, 0.0]);
        assert_eq!(shares(&[(1.0, 0.0, false), (1.0, 1.0, true)]), [0.0, 1.0]);
        assert_eq!(shares(&[(1.0, 1.0, true), (3.0, 3.0, true)]), [0.25, 0.75]);
        let one_is_gone =
            [(2.0, 2.0, false), (2.0, 0.0, false), (1.0, 1.0, true), (2.0, 2.0, true)];
        assert_eq!(shares(&one_is_gone), [0.7, 0.0, 0.1, 0.2]);
        assert_eq!(shares(&[(1.0, 0.0, false)]), [0.0], "nobody");
        assert!(shares(&[]).is_empty());
    }

    #[test]
    fn a_busy_backend_of_the_zone_sends_nothing_across() {
        let own = |weight| Weighed { weight, up: 1.0, full: 1.0, is_across: false };
        let across = Weighed { is_across: true, ..own(1.0) };
        let mut all = [own(1.0), own(0.0), across];
        divide(&mut all);
        assert_eq!(all.map(|one| one.weight), [1.0, 0.0, 0.0]);
    }
}

//! How much goes to other zones than the balancer's own.

use std::sync::Arc;

use serde::Serialize;

use crate::balance::Balancer;
use crate::balance::history::RecentOfBackend;
use crate::health::Member;

#[derive(Debug, Serialize)]
pub(super) struct ZoneStatus {
    own: Option<String>,
    /// The part of the requests in the last minute that backends of other zones answered.
    pub across_share: Option<f64>,
}

impl ZoneStatus {
    pub fn of(balancer: &Balancer, members: &[Arc<Member>], recent: &[RecentOfBackend]) -> Self {
        let shares = members.iter().zip(recent).map(|(member, recent)| {
            let is_across = balancer.is_across(&member.settings.effective());
            recent.share.map(|share| if is_across { share } else { 0.0 })
        });
        let own = balancer.config().zone.clone();
        Self { across_share: own.as_ref().and_then(|_| shares.sum()), own }
    }
}

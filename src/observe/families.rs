//! Families of metrics (each a metric with all its labels), written in either form.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::metrics::OctaveTimes;

/// Names of labels with their values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// The values of all metrics at one moment.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<(&'static str, &'static str, Rows)>);

/// The values of one metric.
#[derive(Debug)]
pub(super) enum Rows {
    /// A constant, which is in the labels.
    Info(Labels),
    Counters(Vec<(Labels, u64)>),
    /// A counter of seconds, in whose name Prometheus expects them.
    Seconds(f64),
    Gauges(Vec<(Labels, f64)>),
    Durations(Vec<(Labels, OctaveTimes)>),
}

impl Rows {
    pub fn counter(count: u64) -> Self {
        Self::Counters(vec![(Labels::new(), count)])
    }

    pub fn gauge(value: f64) -> Self {
        Self::Gauges(vec![(Labels::new(), value)])
    }
}

impl Families {
    pub fn add(&mut self, name: &'static str, help: &'static str, rows: Rows) {
        self.0.push((name, help, rows));
    }
}

impl Collector for Families {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        for (name, help, rows) in &self.0 {
            let (metric_type, unit) = match rows {
                Rows::Info(_) => (MetricType::Info, None),
                Rows::Counters(_) => (MetricType::Counter, None),
                Rows::Seconds(_) => (MetricType::Counter, Some(&Unit::Seconds)),
                Rows::Gauges(_) => (MetricType::Gauge, None),
                Rows::Durations(_) => (MetricType::Histogram, Some(&Unit::Seconds)),
            };
            let mut family = to.encode_descriptor(name, help, unit, metric_type)?;
            match rows {
                Rows::Info(labels) => family.encode_info(labels)?,
                Rows::Counters(rows) => rows.iter().try_for_each(|(labels, count)| {
                    let mut row = family.encode_family(labels)?;
                    row.encode_counter::<NoLabelSet, _, u64>(count, None)
                })?,
                Rows::Seconds(time) => family.encode_counter::<NoLabelSet, _, f64>(time, None)?,
                Rows::Gauges(rows) => rows.iter().try_for_each(|(labels, value)| {
                    family.encode_family(labels)?.encode_gauge(value)
                })?,
                Rows::Durations(rows) => rows.iter().try_for_each(|(labels, times)| {
                    let (sum, count) = (times.sum().as_secs_f64(), times.count());
                    let mut row = family.encode_family(labels)?;
                    row.encode_histogram::<NoLabelSet>(sum, count, &times.buckets(), None)
                })?,
            }
        }
        Ok(())
    }
}

//! What Prometheus scrapes. No tenant, event or address is ever a label.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Upper bounds in seconds for what ends within moments or within a retry's hours.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1800.0, 7200.0,
];

/// Every metric of the process, registered once.
pub struct Metrics {
    registry: Registry,
    pub outbox_pending: IntGauge,
    pub outbox_oldest_seconds: Gauge,
    pub feed_seq: IntGauge,
    pub feed_oldest_seq: IntGauge,
    pub store_oldest_xmin_age: IntGauge,
    pub retention_deleted: IntCounterVec,
    pub retention_overdue_seconds: Gauge,
    pub stream_seq: IntGauge,
    pub relay_leader: IntGauge,
    pub relay_published: IntCounter,
    pub relay_errors: IntCounter,
    pub broker_refills: IntCounter,
    pub sink_checkpoint_seq: IntGaugeVec,
    pub sink_lag: IntGaugeVec,
    pub sink_errors: IntCounterVec,
    pub deliveries: IntCounterVec,
    pub delivery_seconds: HistogramVec,
    pub attempt_seconds: HistogramVec,
    pub breaker_open: IntGaugeVec,
    pub open_destinations: IntGaugeVec,
    pub retrying: IntGaugeVec,
    pub retrying_oldest_seconds: GaugeVec,
    pub dead: IntGaugeVec,
    pub stream_clients: IntGaugeVec,
    pub stream_events: IntCounterVec,
    pub http_requests: IntCounterVec,
    pub http_request_seconds: Histogram,
}

impl Metrics {
    /// # Errors
    /// Two metrics have one name: a fault of this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        let build = IntGaugeVec::new(
            Opts::new("herald_build_info", "Always 1; the version is a label."),
            &["version"],
        )?;
        r.register(Box::new(build.clone()))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            outbox_pending: gauge(
                r,
                "herald_outbox_pending",
                "Events that wait in the outbox (at most 1000000 are counted).",
            )?,
            outbox_oldest_seconds: seconds(
                r,
                "herald_outbox_oldest_seconds",
                "Age of the oldest event that waits in the outbox.",
            )?,
            feed_seq: gauge(r, "herald_feed_seq", "The feed's last seq.")?,
            feed_oldest_seq: gauge(
                r,
                "herald_feed_oldest_seq",
                "The seq of the oldest event that is kept, or is to come when none is.",
            )?,
            store_oldest_xmin_age: gauge(
                r,
                "herald_store_oldest_xmin_age",
                "Transactions since the oldest one that keeps PostgreSQL from vacuuming.",
            )?,
            retention_deleted: counters(
                r,
                "herald_retention_deleted_total",
                "Events, and rows of the ledger, that were deleted because their time was up.",
                &["what"],
            )?,
            retention_overdue_seconds: seconds(
                r,
                "herald_retention_overdue_seconds",
                "For how long the time of the oldest event has been up, on the relay's leader.",
            )?,
            stream_seq: gauge(
                r,
                "herald_stream_seq",
                "The stream's last seq, as the broker said last.",
            )?,
            relay_leader: gauge(
                r,
                "herald_relay_leader",
                "1 while this process leads the relay.",
            )?,
            relay_published: counter(
                r,
                "herald_relay_published_total",
                "Events appended to the stream by this process.",
            )?,
            relay_errors: counter(
                r,
                "herald_relay_errors_total",
                "Failed calls of the relay to the store or the broker, each tried again.",
            )?,
            broker_refills: counter(
                r,
                "herald_broker_refills_total",
                "Times the stream was found behind the feed and filled again from it.",
            )?,
            sink_checkpoint_seq: gauges(
                r,
                "herald_sink_checkpoint_seq",
                "The seq up to which the sink has settled everything.",
                &["sink"],
            )?,
            sink_lag: gauges(
                r,
                "herald_sink_lag",
                "Events between the sink's checkpoint and the feed's end.",
                &["sink"],
            )?,
            sink_errors: counters(
                r,
                "herald_sink_errors_total",
                "Failed calls of the sink's runner to the store or the broker, each tried again.",
                &["sink"],
            )?,
            deliveries: counters(
                r,
                "herald_deliveries_total",
                "Attempts recorded, by what came of them.",
                &["sink", "outcome"],
            )?,
            delivery_seconds: histograms(
                r,
                "herald_delivery_seconds",
                "From the event's creation to its delivery.",
                &["sink"],
            )?,
            attempt_seconds: histograms(
                r,
                "herald_attempt_seconds",
                "How long an attempt took.",
                &["sink"],
            )?,
            breaker_open: gauges(
                r,
                "herald_breaker_open",
                "1 while everything fails for the sink and this process leaves it alone.",
                &["sink"],
            )?,
            open_destinations: gauges(
                r,
                "herald_open_destinations",
                "Destinations of the sink that this process leaves alone, as everything fails there.",
                &["sink"],
            )?,
            retrying: gauges(
                r,
                "herald_retrying",
                "Deliveries that wait for their next attempt.",
                &["sink"],
            )?,
            retrying_oldest_seconds: {
                let gauges = GaugeVec::new(
                    Opts::new(
                        "herald_retrying_oldest_seconds",
                        "Since when the oldest pending delivery waits.",
                    ),
                    &["sink"],
                )?;
                r.register(Box::new(gauges.clone()))?;
                gauges
            },
            dead: gauges(r, "herald_dead", "Dead letters in the ledger.", &["sink"])?,
            stream_clients: gauges(
                r,
                "herald_stream_clients",
                "Clients connected to this process.",
                &["sink"],
            )?,
            stream_events: counters(
                r,
                "herald_stream_events_total",
                "Events handed to clients of this process, one for each client.",
                &["sink"],
            )?,
            http_requests: counters(
                r,
                "herald_http_requests_total",
                "HTTP requests answered.",
                &["route", "method", "status"],
            )?,
            http_request_seconds: {
                let h = Histogram::with_opts(
                    HistogramOpts::new("herald_http_request_seconds", "Time to the answer's head.")
                        .buckets(SECONDS.to_vec()),
                )?;
                r.register(Box::new(h.clone()))?;
                h
            },
            registry,
        })
    }

    /// The Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    /// A metric cannot be encoded.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    r.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn seconds(r: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    let gauge = Gauge::new(name, help)?;
    r.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn gauges(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    r.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn histograms(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    let histograms = HistogramVec::new(
        HistogramOpts::new(name, help).buckets(SECONDS.to_vec()),
        labels,
    )?;
    r.register(Box::new(histograms.clone()))?;
    Ok(histograms)
}

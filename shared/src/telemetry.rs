//! Logs on stdout, metrics for Prometheus, and OTLP export where the standard `OTEL_*` variables ask for it.
//!
//! The logging contract: one line per refused webhook, attempt, publish failure and mail, and at debug one per accepted
//! webhook, with `event_id`, `event_type`,
//! `attempt` and `trace_id` where they apply. Never a body, a signature, a secret or an address.

use std::str::FromStr;
use std::sync::mpsc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::Registry;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        match raw {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(format!("must be `json` or `text`, not `{raw}`")),
        }
    }
}

/// What must live as long as the service, and end with it.
pub struct Telemetry {
    /// What `/metrics` shows.
    pub metrics: Registry,
    meters: SdkMeterProvider,
    tracer: Option<SdkTracerProvider>,
    log_writer: WorkerGuard,
}

/// Log lines kept while stdout does not take them; more are dropped rather than stopping a request.
const LOG_BUFFER_LINES: usize = 2_048;
const DEFAULT_FILTER: &str = "info,lapin=off,opentelemetry=warn,reqwest=warn,hyper=warn";

/// Starts logs, metrics and export. Call it before the async runtime starts: the OTLP client brings its own.
pub fn start(service: &'static str, format: LogFormat) -> Result<Telemetry, String> {
    let resource = resource(service);
    let (metrics, meters) = meters(resource.clone())?;
    let tracer = if wants_otlp("TRACES") {
        Some(tracer(resource)?)
    } else {
        None
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_BUFFER_LINES)
        .lossy(true)
        .finish(std::io::stdout());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_target(false);
    let lines = match format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    // Lines carry their ids themselves: spans are for export alone. Without it there must be no layer for them at all, or
    // each would still be made.
    let mut layers = vec![
        lines
            .with_filter(wanted().and(filter_fn(|metadata| metadata.is_event())))
            .boxed(),
    ];
    if let Some(provider) = &tracer {
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer(service));
        layers.push(spans.with_filter(wanted()).boxed());
    }
    tracing_subscriber::registry().with(layers).init();
    std::panic::set_hook(Box::new(|panic| {
        // The message may hold data: only the place is logged.
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(%place, "panic");
    }));
    Ok(Telemetry {
        metrics,
        meters,
        tracer,
        log_writer: guard,
    })
}

/// What `RUST_LOG` asks for.
fn wanted() -> EnvFilter {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    // At debug it prints the parameters of statements, bodies among them.
    match "tokio_postgres=info".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
}

impl Telemetry {
    /// Sends and writes what is left, for two seconds at the most each.
    pub fn stop(self) {
        let limit = Duration::from_secs(2);
        if let Some(tracer) = &self.tracer {
            let _ = tracer.shutdown_with_timeout(limit);
        }
        let _ = self.meters.shutdown_with_timeout(limit);
        // Where nobody reads stdout, the last lines would be waited for without end.
        let (written, all_written) = mpsc::channel();
        std::thread::spawn(move || {
            drop(self.log_writer);
            let _ = written.send(());
        });
        let _ = all_written.recv_timeout(limit);
    }
}

fn resource(service: &'static str) -> Resource {
    let builder = Resource::builder();
    match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => builder.build(),
        None => builder
            .with_service_name(format!("tollgate-{service}"))
            .build(),
    }
}

fn meters(resource: Resource) -> Result<(Registry, SdkMeterProvider), String> {
    let registry = Registry::new();
    let prometheus = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .without_target_info()
        .build()
        .map_err(|error| format!("metrics cannot start: {error}"))?;
    let mut builder = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_reader(prometheus);
    if wants_otlp("METRICS") {
        let exporter = MetricExporter::builder()
            .with_http()
            .build()
            .map_err(|error| otlp_problem(&error))?;
        builder = builder.with_periodic_exporter(exporter);
    }
    let provider = builder.build();
    opentelemetry::global::set_meter_provider(provider.clone());
    Ok((registry, provider))
}

fn tracer(resource: Resource) -> Result<SdkTracerProvider, String> {
    let exporter = SpanExporter::builder()
        .with_http()
        .build()
        .map_err(|error| otlp_problem(&error))?;
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

fn otlp_problem(error: &dyn std::fmt::Display) -> String {
    // An endpoint may hold a password.
    let why = Some(error.to_string()).filter(|why| !why.contains('@'));
    let why = why.map_or(String::new(), |why| format!(" ({why})"));
    format!(
        "OTLP export cannot start{why}: OTEL_EXPORTER_OTLP_ENDPOINT must be a URL such as http://127.0.0.1:4318, \
         OTEL_EXPORTER_OTLP_PROTOCOL http/protobuf where it is set"
    )
}

/// As the OpenTelemetry specification has it: an endpoint asks for export, `none` and `OTEL_SDK_DISABLED` forbid it.
fn wants_otlp(signal: &str) -> bool {
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.trim().is_empty());
    let is = |name: &str, text: &str| {
        std::env::var(name).is_ok_and(|value| value.trim().eq_ignore_ascii_case(text))
    };
    let endpoint =
        set("OTEL_EXPORTER_OTLP_ENDPOINT") || set(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"));
    endpoint && !is(&format!("OTEL_{signal}_EXPORTER"), "none") && !is("OTEL_SDK_DISABLED", "true")
}

//! One trace from the webhook to its effects: carried in log lines, in the outbox, and in AMQP headers as a W3C
//! `traceparent` (www.w3.org/TR/trace-context). A `traceparent` from the internet is never read.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Which trace, and which span of it, work belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceContext(SpanContext);

impl TraceContext {
    /// The context of the current `tracing` span where OpenTelemetry export is on; a fresh trace otherwise.
    pub fn current_or_new() -> Self {
        let current = tracing::Span::current()
            .context()
            .span()
            .span_context()
            .clone();
        if current.is_valid() {
            Self(current)
        } else {
            Self::new(TraceId::from(rand::random::<u128>() | 1))
        }
    }

    /// The context of the current span if it has one, else a new span of the same trace.
    pub fn continued(&self) -> Self {
        let current = tracing::Span::current()
            .context()
            .span()
            .span_context()
            .clone();
        if current.is_valid() {
            Self(current)
        } else {
            Self::new(self.0.trace_id())
        }
    }

    fn new(trace_id: TraceId) -> Self {
        let span_id = SpanId::from(rand::random::<u64>() | 1);
        Self(SpanContext::new(
            trace_id,
            span_id,
            TraceFlags::NOT_SAMPLED,
            true,
            TraceState::NONE,
        ))
    }

    /// Reads a `traceparent`; `None` where it is not one.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "00"
            || trace_id.len() != 32
            || span_id.len() != 16
            || flags.len() != 2
            || parts.next().is_some()
        {
            return None;
        }
        let context = SpanContext::new(
            TraceId::from_hex(trace_id).ok()?,
            SpanId::from_hex(span_id).ok()?,
            TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
            true,
            TraceState::NONE,
        );
        context.is_valid().then_some(Self(context))
    }

    /// The W3C text.
    pub fn traceparent(&self) -> String {
        format!(
            "00-{}-{}-{:02x}",
            self.0.trace_id(),
            self.0.span_id(),
            self.0.trace_flags().to_u8()
        )
    }

    /// The trace's id, 32 hex digits.
    pub fn trace_id(&self) -> String {
        self.0.trace_id().to_string()
    }

    /// Makes `span` a child of this context where OpenTelemetry export is on.
    pub fn adopt(&self, span: &tracing::Span) {
        // Fails only where the span is not exported at all.
        let _ =
            span.set_parent(opentelemetry::Context::new().with_remote_span_context(self.0.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_its_text() {
        let context = TraceContext::current_or_new();
        assert_eq!(TraceContext::parse(&context.traceparent()), Some(context));
    }

    #[test]
    fn texts_that_are_no_traceparent_are_refused() {
        for text in [
            "",
            "00-1-2-3",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-zz-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }
}

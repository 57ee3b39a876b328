//! The stored journal as the bus sees it.

use std::sync::Arc;

use super::{
    journal::{Journal, JournalRow},
    kv::json,
};
use crate::{
    error::Result,
    event::{self, Ack, BoxFuture, Event, Pattern},
};

impl event::Journal for Journal {
    fn append(&self, event: Arc<Event>, ack: Option<Ack>) {
        // Without a number there is no place for it; the bus numbers what it journals.
        let Some(sequence) = event.sequence else {
            tracing::error!(
                kind = event.kind.as_str(),
                "an event without a sequence number is not journaled"
            );
            return;
        };
        self.append_event(sequence, move || row(sequence, &event), ack);
    }

    fn read(
        &self,
        after_sequence: u64,
        patterns: &[Pattern],
        limit: usize,
    ) -> BoxFuture<Result<Vec<Arc<Event>>>> {
        let (journal, patterns) = (self.clone(), patterns.to_vec());
        Box::pin(async move {
            let wanted = move |kind: &str| patterns.iter().any(|pattern| pattern.matches(kind));
            let rows = journal.read_rows(after_sequence, wanted, limit).await?;
            rows.iter().map(event).collect()
        })
    }

    fn pruned_through(&self) -> u64 {
        Journal::pruned_through(self)
    }
}

fn row(sequence: u64, event: &Event) -> JournalRow {
    JournalRow {
        sequence,
        time_ms: event.time_ms,
        kind: event.kind.as_str().to_owned(),
        subject: event.subject.as_deref().map(str::to_owned),
        event: event.to_json().to_string(),
    }
}

fn event(row: &JournalRow) -> Result<Arc<Event>> {
    Event::from_json(json(&row.event)?)
        .map(Arc::new)
        .map_err(|e| e.context(format!("event {}", row.sequence)))
}

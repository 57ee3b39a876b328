//! What a change would do to a file, as `diff -u` says it.

use std::path::Path;

use hms_core::Result;
use similar::TextDiff;

use crate::edit::{self, Format};

/// Lines around a change.
const CONTEXT: usize = 3;

/// The unified diff of a file, without the secrets in it; empty when nothing changes.
///
/// # Errors
/// `invalid-config` for what cannot be parsed.
pub(crate) fn unified(format: Format, file: &Path, old: &str, new: &str) -> Result<String> {
    if old == new {
        return Ok(String::new());
    }
    let (old, new) = (edit::shown(format, file, old)?, edit::shown(format, file, new)?);
    let (diff, name) = (TextDiff::from_lines(&old, &new), file.to_string_lossy());
    Ok(diff.unified_diff().context_radius(CONTEXT).header(&name, &name).to_string())
}

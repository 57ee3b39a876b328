//! Frames and JSON-RPC messages on the wire.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{Error, ErrorKind, Result};

/// Peers of another major cannot talk to each other.
pub const PROTOCOL_MAJOR: u32 = 1;
/// Grows with what is added.
pub const PROTOCOL_MINOR: u32 = 0;
/// No frame is longer; a peer that announces one is cut off.
pub const MAX_FRAME: usize = 16 << 20;

/// Any JSON-RPC 2.0 message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wire {
    pub(super) jsonrpc: Version,
    /// An answer to nobody has the id null, as JSON-RPC wants it; a notification has none.
    #[serde(default, skip_serializing_if = "Id::is_absent")]
    pub(super) id: Id,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(super) params: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<WireError>,
}

/// The id of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Id {
    #[default]
    Absent,
    Null,
    Number(u64),
}

impl Id {
    fn is_absent(&self) -> bool {
        *self == Self::Absent
    }

    pub(super) fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Absent | Self::Null => None,
        }
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.number().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Option::<u64>::deserialize(from).map(|id| id.map_or(Self::Null, Self::Number))
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Version {
    #[serde(rename = "2.0")]
    V2,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireError {
    pub(super) code: i32,
    pub(super) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Error>,
}

impl Wire {
    pub(super) fn request(id: u64, method: &str, params: Value) -> Self {
        Self {
            jsonrpc: Version::V2,
            id: Id::Number(id),
            method: Some(method.into()),
            params,
            result: None,
            error: None,
        }
    }

    pub(super) fn notification(method: &str, params: Value) -> Self {
        Self {
            jsonrpc: Version::V2,
            id: Id::Absent,
            method: Some(method.into()),
            params,
            result: None,
            error: None,
        }
    }

    /// An answer; `None`: to nobody in particular, because no request could be made out.
    pub(super) fn response(id: Option<u64>, outcome: Result<Value>) -> Self {
        let (result, error) = match outcome {
            Ok(value) => (Some(value), None),
            Err(e) => (None, Some(WireError::from(e))),
        };
        let id = id.map_or(Id::Null, Id::Number);
        Self { jsonrpc: Version::V2, id, method: None, params: Value::Null, result, error }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0u8; 4];
        serde_json::to_writer(&mut bytes, self)
            .map_err(|e| Error::internal(format!("encoding a message: {e}")))?;
        let len = bytes.len() - 4;
        if len > MAX_FRAME {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a message of {len} bytes is longer than {MAX_FRAME}"),
            ));
        }
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::new(ErrorKind::Protocol, format!("not a JSON-RPC 2.0 message: {e}")))
    }
}

impl From<Error> for WireError {
    fn from(e: Error) -> Self {
        let code = match e.kind {
            ErrorKind::InvalidArgument | ErrorKind::InvalidConfig => -32602,
            ErrorKind::Protocol => -32600,
            ErrorKind::Internal | ErrorKind::Panic => -32603,
            _ => -32000,
        };
        Self { code, message: e.message.clone(), data: Some(e) }
    }
}

impl From<WireError> for Error {
    fn from(e: WireError) -> Self {
        e.data.unwrap_or_else(|| Error::new(ErrorKind::Protocol, format!("error {}: {}", e.code, e.message)))
    }
}

/// Reads one frame; `None` at an orderly end. `buffer` is reused between calls.
pub(super) async fn read_frame<'b>(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &'b mut Vec<u8>,
) -> Result<Option<&'b [u8]>> {
    let mut header = [0u8; 4];
    let mut got = 0;
    while got < 4 {
        match from.read(&mut header[got..]).await.map_err(|e| Error::io("reading from a peer", &e))? {
            0 if got == 0 => return Ok(None),
            0 => return Err(Error::new(ErrorKind::Protocol, "the peer ended in the middle of a frame")),
            n => got += n,
        }
    }
    let len = u32::from_le_bytes(header) as usize;
    if len > MAX_FRAME {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("a frame of {len} bytes is longer than {MAX_FRAME}"),
        ));
    }
    // Grow as bytes arrive: an announced length alone costs no memory.
    buffer.clear();
    let mut limited = from.take(len as u64);
    let read = limited.read_to_end(buffer).await.map_err(|e| Error::io("reading from a peer", &e))?;
    if read < len {
        return Err(Error::new(ErrorKind::Protocol, "the peer ended in the middle of a frame"));
    }
    Ok(Some(buffer))
}

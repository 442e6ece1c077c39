// SPDX-License-Identifier: GPL-2.0

//! What a machine on Bochs sends to its host, through the emulator's debug port.
//!
//! The port (0xe9) is a plain byte stream, which arrives on Bochs's standard output between Bochs's own messages. So what
//! is sent comes in frames: [`MAGIC`], a byte for the kind, the payload's length as a little-endian `u16`, the payload.
//! The emulated serial port would take 87 µs of the machine's time for each byte, all of it executed instructions.

/// Begins each frame. Bochs's own messages have no such bytes.
pub const MAGIC: [u8; 4] = *b"\x02pv\x03";

/// Bytes of a frame before its payload.
pub const HEADER: usize = MAGIC.len() + 3;

/// Bytes of a payload at the most.
pub const MAX: usize = 4096;

/// What a frame's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the command printed
    Output = b'o' as isize,
    /// The kernel's messages
    Kernel = b'k' as isize,
    /// A tar archive of the files that the command left
    Files = b'f' as isize,
    /// The command's exit status, in decimal
    Status = b's' as isize,
}

impl Kind {
    /// The kind that a frame's byte says, if it is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Output, Self::Kernel, Self::Files, Self::Status]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }

    /// The byte that says this kind.
    pub fn byte(self) -> u8 {
        self as u8
    }
}

/// The header of a frame with a payload of `length` bytes, which are [`MAX`] at the most.
pub fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    header[MAGIC.len()] = kind.byte();
    let length = u16::try_from(length).expect("a payload is shorter than 64 KiB");
    header[MAGIC.len() + 1..].copy_from_slice(&length.to_le_bytes());
    header
}

/// Takes a stream apart.
#[derive(Default)]
pub struct Parser {
    /// What has come and is not a whole frame yet.
    bytes: Vec<u8>,
}

impl Parser {
    /// Takes the next bytes of the stream. Calls `frame` for each frame that is whole now, and returns what stood between
    /// frames.
    pub fn feed(&mut self, bytes: &[u8], mut frame: impl FnMut(Kind, &[u8])) -> Vec<u8> {
        let mut between = Vec::new();
        let mut at = 0;

        self.bytes.extend_from_slice(bytes);
        while let Some(rest) = self.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match parse(rest) {
                Parsed::Frame(kind, payload) => {
                    frame(kind, payload);
                    at += HEADER + payload.len();
                }
                Parsed::Partial => break,
                Parsed::Other => {
                    between.push(rest[0]);
                    at += 1;
                }
            }
        }
        self.bytes.drain(..at);
        between
    }
}

enum Parsed<'a> {
    Frame(Kind, &'a [u8]),
    /// The beginning of a frame.
    Partial,
    /// The first byte belongs to no frame.
    Other,
}

fn parse(bytes: &[u8]) -> Parsed<'_> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Parsed::Other;
    }
    let Some(header) = bytes.get(MAGIC.len()..HEADER) else {
        return Parsed::Partial;
    };
    let Some(kind) = Kind::from_byte(header[0]) else {
        return Parsed::Other;
    };
    let length = usize::from(u16::from_le_bytes([header[1], header[2]]));
    match bytes.get(HEADER..HEADER + length) {
        Some(payload) => Parsed::Frame(kind, payload),
        None => Parsed::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
        [header(kind, payload.len()).as_slice(), payload].concat()
    }

    #[test]
    fn any_pieces_of_a_stream_give_the_same_frames() {
        let stream = [
            b"Bochs says \x02p this".to_vec(),
            frame(Kind::Output, b"hello\n"),
            frame(Kind::Kernel, b""),
            b"\n".to_vec(),
            frame(Kind::Files, &[0; 3000]),
            frame(Kind::Status, b"7"),
            b"PANIC".to_vec(),
        ]
        .concat();
        for piece in [1, 2, 7, 1000, stream.len()] {
            let mut parser = Parser::default();
            let mut frames = Vec::new();
            let mut between = Vec::new();
            for bytes in stream.chunks(piece) {
                between.extend(parser.feed(bytes, |kind, payload| {
                    frames.push((kind, payload.to_vec()));
                }));
            }
            assert_eq!(
                frames,
                [
                    (Kind::Output, b"hello\n".to_vec()),
                    (Kind::Kernel, Vec::new()),
                    (Kind::Files, vec![0; 3000]),
                    (Kind::Status, b"7".to_vec()),
                ]
            );
            assert_eq!(between, b"Bochs says \x02p this\nPANIC");
        }
    }

    #[test]
    fn a_frame_of_no_known_kind_is_none() {
        let mut parser = Parser::default();
        let between = parser.feed(b"\x02pv\x03?\x01\x00x", |_, _| panic!("no frame"));
        assert_eq!(between, b"\x02pv\x03?\x01\x00x");
    }
}

//! Several captures as one stream of packets in the order of time, each with the name of its port.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::pcap::{CaptureError, CaptureReader, Record};

/// A capture to be merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The file.
    pub path: PathBuf,
    /// The port of packets whose interface has no name.
    pub port: Option<String>,
}

impl Input {
    /// Takes `FILE`, or `FILE:PORT` where the port is what follows the first `:` before `uplink`, `host` or `pod:`.
    pub fn parse(argument: &str) -> Self {
        let colon = [":uplink", ":host", ":pod:"]
            .iter()
            .filter_map(|port| argument.find(port))
            .min();
        match colon {
            Some(at) => Self {
                path: argument[..at].into(),
                port: Some(argument[at + 1..].to_owned()),
            },
            None => Self {
                path: argument.into(),
                port: None,
            },
        }
    }
}

/// A packet of a [`Merge`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// When it was captured, in nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// Index into [`Merge::ports`].
    pub port: usize,
    /// All of its bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// Packets of several captures by timestamp; equal ones in the order of the files, then of the packets in the file.
///
/// Every file is read once before the first packet is given, so a broken file is found before anything was made of the
/// others, and the ports are known. A file that is not in the order of time, or that cannot be read twice, is held in memory.
pub struct Merge {
    sources: Vec<Source>,
    ports: Vec<String>,
    packets: u64,
    first_ns: u64,
    last_ns: u64,
}

struct Source {
    path: PathBuf,
    /// Index into `Merge::ports` of each interface.
    ports: Vec<usize>,
    packets: Packets,
    head: Record,
    has_head: bool,
}

enum Packets {
    Read(CaptureReader),
    Held { sorted: Vec<Record>, next: usize },
}

impl Merge {
    /// Opens and checks all of `inputs`.
    ///
    /// # Errors
    /// The first [`CaptureError`] of any of them.
    pub fn open(inputs: &[Input]) -> Result<Self, CaptureError> {
        let mut merge = Self {
            sources: Vec::new(),
            ports: Vec::new(),
            packets: 0,
            first_ns: u64::MAX,
            last_ns: 0,
        };
        for input in inputs {
            let source = merge.add(input)?;
            merge.sources.push(source);
        }
        Ok(merge)
    }

    /// Names of the ports that packets come from, in the order in which the files name them.
    pub fn ports(&self) -> &[String] {
        &self.ports
    }

    /// Packets in all files.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Time from the first packet to the last, 0 without packets.
    pub fn duration_ns(&self) -> u64 {
        self.last_ns.saturating_sub(self.first_ns)
    }

    /// Takes the next packet into `packet`, whose memory is used again. `false` at the end.
    ///
    /// # Errors
    /// [`CaptureError`] when a file changed since it was checked.
    pub fn next_into(&mut self, packet: &mut Merged) -> Result<bool, CaptureError> {
        // The first of equal ones: `min_by_key` keeps it, and files stand in order.
        let earliest = self
            .sources
            .iter_mut()
            .filter(|source| source.has_head)
            .min_by_key(|source| source.head.timestamp_ns);
        let Some(source) = earliest else { return Ok(false) };
        packet.timestamp_ns = source.head.timestamp_ns;
        packet.port = source.ports[source.head.interface];
        std::mem::swap(&mut packet.bytes, &mut source.head.bytes);
        source.advance()?;
        Ok(true)
    }

    /// Begins again at the first packet.
    ///
    /// # Errors
    /// [`CaptureError`] when a file cannot be opened again.
    pub fn rewind(&mut self) -> Result<(), CaptureError> {
        self.sources.iter_mut().try_for_each(Source::rewind)
    }

    fn add(&mut self, input: &Input) -> Result<Source, CaptureError> {
        let rereadable = fs::metadata(&input.path).is_ok_and(|file| file.is_file());
        let mut reader = CaptureReader::open(&input.path)?;
        let (mut record, mut held, mut sorted, mut last_ns) = (Record::default(), Vec::new(), true, 0);
        while reader.read_into(&mut record)? {
            self.packets += 1;
            self.first_ns = self.first_ns.min(record.timestamp_ns);
            self.last_ns = self.last_ns.max(record.timestamp_ns);
            sorted &= record.timestamp_ns >= last_ns;
            last_ns = record.timestamp_ns;
            if !rereadable {
                held.push(std::mem::take(&mut record));
            }
        }
        let ports = self.port_indexes(input, &reader)?;
        let packets = if rereadable && sorted {
            Packets::Read(CaptureReader::open(&input.path)?)
        } else {
            if rereadable {
                held = read_all(&input.path)?;
            }
            held.sort_by_key(|record| record.timestamp_ns);
            Packets::Held {
                sorted: held,
                next: 0,
            }
        };
        let mut source = Source {
            path: input.path.clone(),
            ports,
            packets,
            head: Record::default(),
            has_head: false,
        };
        source.advance()?;
        Ok(source)
    }

    fn port_indexes(&mut self, input: &Input, reader: &CaptureReader) -> Result<Vec<usize>, CaptureError> {
        let mut indexes = Vec::new();
        for (interface, described) in reader.interfaces().iter().enumerate() {
            let named = described
                .name
                .as_ref()
                .filter(|name| !name.is_empty())
                .or(input.port.as_ref());
            let Some(name) = named else {
                return Err(CaptureError::NoPort {
                    path: input.path.clone(),
                    interface,
                });
            };
            let index = self
                .ports
                .iter()
                .position(|port| port == name)
                .unwrap_or_else(|| {
                    self.ports.push(name.clone());
                    self.ports.len() - 1
                });
            indexes.push(index);
        }
        Ok(indexes)
    }
}

impl Source {
    fn advance(&mut self) -> Result<(), CaptureError> {
        self.has_head = match &mut self.packets {
            Packets::Read(reader) => reader.read_into(&mut self.head)?,
            Packets::Held { sorted, next } => match sorted.get(*next) {
                Some(record) => {
                    self.head.clone_from(record);
                    *next += 1;
                    true
                }
                None => false,
            },
        };
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), CaptureError> {
        match &mut self.packets {
            Packets::Read(reader) => *reader = CaptureReader::open(&self.path)?,
            Packets::Held { next, .. } => *next = 0,
        }
        self.advance()
    }
}

fn read_all(path: &Path) -> Result<Vec<Record>, CaptureError> {
    let mut reader = CaptureReader::open(path)?;
    let (mut records, mut record) = (Vec::new(), Record::default());
    while reader.read_into(&mut record)? {
        records.push(std::mem::take(&mut record));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::pcap::PcapngWriter;

    fn capture(path: &Path, names: &[&str], packets: &[(u32, u64, &str)]) -> Input {
        let file = fs::File::create(path).unwrap();
        let mut writer = PcapngWriter::new(file, names.iter().copied()).unwrap();
        for (interface, ns, bytes) in packets {
            writer.write(*interface, *ns, bytes.as_bytes(), None).unwrap();
        }
        Input {
            path: path.to_owned(),
            port: None,
        }
    }

    fn drain(merge: &mut Merge) -> Vec<(u64, String, String)> {
        let (mut packet, mut all) = (Merged::default(), Vec::new());
        while merge.next_into(&mut packet).unwrap() {
            let bytes = String::from_utf8(packet.bytes.clone()).unwrap();
            all.push((packet.timestamp_ns, merge.ports()[packet.port].clone(), bytes));
        }
        all
    }

    #[test]
    fn equal_stamps_keep_the_order_of_files_and_an_unsorted_file_is_sorted() {
        let folder = tempfile::tempdir().unwrap();
        let first = capture(
            &folder.path().join("1"),
            &["uplink", "host"],
            &[(0, 5, "a"), (1, 9, "b"), (0, 9, "c")],
        );
        let second = capture(
            &folder.path().join("2"),
            &["host"],
            &[(0, 9, "d"), (0, 5, "e"), (0, 1, "f")],
        );
        let mut merge = Merge::open(&[first, second]).unwrap();

        let expected = [
            (1, "host", "f"),
            (5, "uplink", "a"),
            (5, "host", "e"),
            (9, "host", "b"),
            (9, "uplink", "c"),
            (9, "host", "d"),
        ]
        .map(|(ns, port, bytes)| (ns, port.to_owned(), bytes.to_owned()));
        assert_eq!(drain(&mut merge), expected);
        merge.rewind().unwrap();
        assert_eq!(drain(&mut merge), expected);
        assert_eq!((merge.packets(), merge.duration_ns()), (6, 8));
    }

    #[test]
    fn an_argument_names_the_port_of_a_nameless_capture() {
        let input = |path: &str, port: Option<&str>| Input {
            path: path.into(),
            port: port.map(str::to_owned),
        };
        assert_eq!(
            Input::parse("x.pcap:pod:default/web"),
            input("x.pcap", Some("pod:default/web"))
        );
        assert_eq!(
            Input::parse("a:b.pcap:uplink1"),
            input("a:b.pcap", Some("uplink1"))
        );
        assert_eq!(Input::parse("a:b.pcap"), input("a:b.pcap", None));
    }

    #[test]
    fn an_interface_without_a_name_needs_a_port() {
        let folder = tempfile::tempdir().unwrap();
        let mut nameless = capture(&folder.path().join("1"), &[""], &[(0, 5, "a")]);
        assert!(matches!(
            Merge::open(&[nameless.clone()]),
            Err(CaptureError::NoPort { interface: 0, .. })
        ));
        nameless.port = Some("uplink".to_owned());
        assert_eq!(
            drain(&mut Merge::open(&[nameless]).unwrap()),
            [(5, "uplink".to_owned(), "a".to_owned())]
        );
    }

    #[test]
    fn a_broken_file_is_found_before_the_first_packet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        let input = capture(&path, &["uplink"], &[(0, 1, "a"), (0, 2, "b")]);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(matches!(
            Merge::open(&[input]),
            Err(CaptureError::Truncated { packet: 2, .. })
        ));
    }
}

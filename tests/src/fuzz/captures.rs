//! Any bytes as a capture: read to the end or to an error that names the packet; what was read is written and read back.

use std::io::Cursor;
use std::path::Path;

use fastpath::io::pcap::{CaptureError, CaptureReader, PACKET_LEN_MAX, PcapngWriter, Record};

/// One input.
pub fn run(bytes: &[u8]) {
    let (records, names, end) = read(bytes);
    if let Err(error) = end {
        let text = error.to_string();
        assert!(text.contains("x.pcapng"), "the error names no file: {text}");
        if let CaptureError::Truncated { packet, .. }
        | CaptureError::Cut { packet, .. }
        | CaptureError::Malformed { packet, .. } = error
        {
            assert_eq!(packet, records.len() as u64 + 1, "{text}");
        }
    }
    // Every byte of a packet comes from the file.
    let total: usize = records.iter().map(|record| record.bytes.len()).sum();
    assert!(total <= bytes.len());

    let mut writer = PcapngWriter::new(Vec::new(), names.iter().map(String::as_str)).expect("memory");
    for record in &records {
        writer
            .write(
                record.interface as u32,
                record.timestamp_ns,
                &record.bytes,
                record.comment.as_deref(),
            )
            .expect("memory");
    }
    let (again, names_again, end) = read(&writer.into_inner().expect("memory"));
    end.expect("what we write reads to its end");
    assert_eq!(again, records);
    // Interfaces without packets come with the first read, all of them.
    if !records.is_empty() {
        assert_eq!(names_again, names);
    }
}

/// The packets, the interfaces' names (made unique) and how it ended.
fn read(bytes: &[u8]) -> (Vec<Record>, Vec<String>, Result<(), CaptureError>) {
    let mut records = Vec::new();
    let reader = CaptureReader::new(Box::new(Cursor::new(bytes.to_vec())), Path::new("x.pcapng"));
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => return (records, Vec::new(), Err(error)),
    };
    let mut record = Record::default();
    let end = loop {
        match reader.read_into(&mut record) {
            Ok(true) => {
                assert!(record.interface < reader.interfaces().len());
                assert!(record.bytes.len() <= PACKET_LEN_MAX);
                records.push(record.clone());
            }
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let names = reader
        .interfaces()
        .iter()
        .map(|interface| interface.name.clone().unwrap_or_default())
        .collect();
    (records, names, end)
}

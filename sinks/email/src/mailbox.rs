//! The built-in mailbox: every mail a file, for machines without a mail server.
//!
//! `ID.eml` is the mail as it would have been sent, `ID.json` what a page shows of it. The ID is a
//! ULID of the event's time and the delivery's hash, so that a delivery made twice is one mail,
//! whichever process makes it. The files themselves are the only state: processes may share the
//! folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use chrono::{SecondsFormat, Utc};
use herald_contract::Event;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::message::Mail;

/// A temporary file of this age is what a crash left.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A folder of mails.
#[derive(Debug)]
pub struct Mailbox {
    folder: PathBuf,
    keep: usize,
    /// Mails written since the folder was last tidied; more than the slack at first.
    written: AtomicU64,
    /// Tells temporary files of this process apart.
    temporary: AtomicU64,
}

/// What is shown of a mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub id: Ulid,
    pub message_id: String,
    pub to: String,
    pub from: String,
    pub subject: String,
    /// When it was written, in RFC 3339.
    pub date: String,
    pub event_id: Ulid,
    /// Empty when the mail is in HTML only.
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
}

impl Mailbox {
    /// A mailbox in `folder`, which is made with the first mail.
    pub fn new(folder: PathBuf, keep: u32) -> Self {
        Self {
            folder,
            keep: keep as usize,
            written: AtomicU64::new(u64::from(keep)),
            temporary: AtomicU64::new(0),
        }
    }

    /// Writes the mail, durably when this returns. Blocks.
    ///
    /// # Errors
    /// The folder's.
    pub fn put(&self, event: &Event, mail: &Mail) -> io::Result<Ulid> {
        let time = u64::try_from(event.created_at.timestamp_millis()).unwrap_or_default();
        // `from_parts` takes the lower 80 bits for a ULID's random part; the event's own bits
        // tell events of one millisecond apart.
        let id = Ulid::from_parts(time, mail.hash ^ event.event_id.0);
        let entry = Entry {
            id,
            message_id: mail.message_id.clone(),
            to: mail.to.to_string(),
            from: mail.from.to_string(),
            subject: mail.content.subject.clone(),
            date: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            event_id: event.event_id,
            text: mail.content.text.clone().unwrap_or_default(),
            html: mail.content.html.clone(),
        };
        self.create_folder()?;
        // A mail is there when its .eml is; what describes it must be there before.
        let entry = serde_json::to_vec(&entry).map_err(io::Error::other)?;
        self.write(&self.path(id, "json"), &entry)?;
        self.write(&self.path(id, "eml"), &mail.bytes)?;
        File::open(&self.folder)?.sync_all()?;
        self.tidy_sometimes();
        Ok(id)
    }

    /// The newest mails, newest first. Blocks.
    ///
    /// # Errors
    /// The folder's.
    pub fn newest(&self, limit: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for id in self.ids()?.into_iter().take(limit.min(self.keep)) {
            // What another process removes meanwhile is not there.
            entries.extend(self.entry(id)?);
        }
        Ok(entries)
    }

    /// What is shown of one mail. Blocks.
    ///
    /// # Errors
    /// The folder's.
    pub fn entry(&self, id: Ulid) -> io::Result<Option<Entry>> {
        let Some(bytes) = found(fs::read(self.path(id, "json")))? else {
            return Ok(None);
        };
        Ok(serde_json::from_slice(&bytes)
            .inspect_err(|e| tracing::warn!(%id, "the mailbox holds a malformed mail: {e}"))
            .ok())
    }

    /// One mail as it was written. Blocks.
    ///
    /// # Errors
    /// The folder's.
    pub fn raw(&self, id: Ulid) -> io::Result<Option<Vec<u8>>> {
        found(fs::read(self.path(id, "eml")))
    }

    /// Whether the folder can be written to. Blocks.
    ///
    /// # Errors
    /// Why not.
    pub fn probe(&self) -> io::Result<()> {
        self.create_folder()?;
        let path = self.temporary();
        File::create_new(&path)?;
        fs::remove_file(path)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, id: Ulid, extension: &str) -> PathBuf {
        self.folder.join(format!("{id}.{extension}"))
    }

    fn temporary(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        self.folder.join(format!(".{process}-{number}.tmp"))
    }

    /// Mails are private: other users of this machine do not see them.
    fn create_folder(&self) -> io::Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.folder)
    }

    /// All of it or nothing, also when the machine stops in the middle.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.temporary();
        let written = File::create(&temporary)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// The mails' IDs, the last written first. Not by ID: a replay of an old event is news.
    fn ids(&self) -> io::Result<Vec<Ulid>> {
        let Some(folder) = found(fs::read_dir(&self.folder))? else {
            return Ok(Vec::new());
        };
        let mut mails: Vec<(SystemTime, Ulid)> = Vec::new();
        for file in folder {
            let file = file?;
            let name = file.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".eml"));
            let Some(id) = stem.and_then(parse_id) else {
                continue;
            };
            if let Some(metadata) = found(file.metadata())? {
                mails.push((metadata.modified()?, id));
            }
        }
        mails.sort_unstable_by(|a, b| b.cmp(a));
        Ok(mails.into_iter().map(|(_, id)| id).collect())
    }

    /// Reading the whole folder for each mail would make a full mailbox slow, so it is done once
    /// for every tenth of what it keeps.
    fn tidy_sometimes(&self) {
        let slack = (self.keep / 10) as u64;
        if self.written.fetch_add(1, Ordering::Relaxed) < slack {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        // The mail itself is safe; that the mailbox grows is worth a line, not a retry.
        if let Err(e) = self.tidy() {
            let folder = self.folder.display();
            tracing::warn!("the mailbox {folder} could not be tidied: {e}");
        }
    }

    fn tidy(&self) -> io::Result<()> {
        for id in self.ids()?.into_iter().skip(self.keep) {
            found(fs::remove_file(self.path(id, "eml")))?;
            found(fs::remove_file(self.path(id, "json")))?;
        }
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let temporary = file
                .file_name()
                .to_str()
                .is_some_and(|n| n.ends_with(".tmp"));
            if temporary && let Some(metadata) = found(file.metadata())? {
                let age = metadata.modified()?.elapsed().unwrap_or_default();
                if age > ABANDONED {
                    found(fs::remove_file(file.path()))?;
                }
            }
        }
        Ok(())
    }
}

/// An ID in its one form; anything else, a path above all, is none.
pub fn parse_id(text: &str) -> Option<Ulid> {
    let id = Ulid::from_string(text).ok()?;
    (id.to_string() == text).then_some(id)
}

/// What another process has removed is not there, and that is no error.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::build;
    use crate::template::Content;
    use crate::tests::event;

    fn put(mailbox: &Mailbox, event: &Event, to: &str) -> Ulid {
        let content = Content {
            subject: "Grüße".into(),
            text: Some(".\nZoë".into()),
            html: None,
        };
        let from = "herald <herald@localhost>".parse().expect("sender");
        let to = to.parse().expect("address");
        let mail = build("email", &from, to, event, content).expect("builds");
        mailbox.put(event, &mail).expect("written")
    }

    #[test]
    fn a_mail_reads_back_as_it_was_put() {
        let folder = tempfile::tempdir().expect("folder");
        let mailbox = Mailbox::new(folder.path().join("a/mailbox"), 10);
        assert_eq!(mailbox.newest(10).expect("no folder yet"), []);
        mailbox.probe().expect("writable");
        let event = event("x", json!({}));
        let id = put(&mailbox, &event, "jane@example.com");
        let entries = mailbox.newest(10).expect("readable");
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        assert_eq!((entry.id, entry.event_id), (id, event.event_id));
        assert_eq!(entry.to, "jane@example.com");
        assert_eq!(entry.from, "herald <herald@localhost>");
        assert_eq!(
            (entry.subject.as_str(), entry.text.as_str()),
            ("Grüße", ".\nZoë")
        );
        let raw = mailbox.raw(id).expect("readable").expect("there");
        assert!(
            raw.starts_with(b"Message-ID: <"),
            "{}",
            String::from_utf8_lossy(&raw)
        );
        assert_eq!(mailbox.raw(Ulid(1)).expect("readable"), None);
    }

    #[test]
    fn a_delivery_made_twice_is_one_mail() {
        let folder = tempfile::tempdir().expect("folder");
        let [one, other] = [(); 2].map(|()| Mailbox::new(folder.path().into(), 10));
        let event = event("x", json!({}));
        let id = put(&one, &event, "jane@example.com");
        assert_eq!(put(&other, &event, "jane@example.com"), id);
        assert_ne!(put(&one, &event, "joe@example.com"), id);
        assert_eq!(one.newest(10).expect("readable").len(), 2);
    }

    #[test]
    fn no_more_mails_are_kept_than_wanted_and_those_are_the_last_written() {
        let folder = tempfile::tempdir().expect("folder");
        let mailbox = Mailbox::new(folder.path().into(), 3);
        let mut last = Vec::new();
        for n in 0..8_u32 {
            let mut event = event("x", json!({}));
            // The clock of events runs backwards: what counts is when a mail was written.
            event.event_id = Ulid(u128::from(100 - n));
            event.created_at -= chrono::TimeDelta::seconds(i64::from(n));
            let id = put(&mailbox, &event, "jane@example.com");
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(n));
            let file = File::options()
                .write(true)
                .open(mailbox.path(id, "eml"))
                .expect("file");
            file.set_modified(written).expect("time set");
            last.insert(0, id);
        }
        mailbox.tidy().expect("tidied");
        let kept: Vec<Ulid> = mailbox
            .newest(10)
            .expect("readable")
            .iter()
            .map(|e| e.id)
            .collect();
        assert_eq!(kept, last[..3]);
        let files = fs::read_dir(folder.path()).expect("readable").count();
        assert_eq!(files, 6, "an .eml and a .json each");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        assert!(parse_id("01ARZ3NDEKTSV4RRFFQ69G5FAV").is_some());
        for bad in [
            "",
            "../config",
            "01arz3ndektsv4rrffq69g5fav",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV/..",
        ] {
            assert!(parse_id(bad).is_none(), "{bad}");
        }
    }
}

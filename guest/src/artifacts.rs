//! Artifacts: `artifacts/{run-id}/{name}.{format}` and `artifacts/{run-id}/_manifest.json`.

use crate::artifact_manifest::NewManifest;
use crate::codec;
use crate::commit::{Change, Content};
use crate::error::{Error, NameKind, Result};
use crate::journal::Fingerprint;
use crate::json::{Object, Value};
use crate::layout::{self, StorePath};
use crate::model::{ArtifactDescriptor, ArtifactReference, Durability};
use crate::names::{ArtifactFormat, ArtifactName, RunId};
use crate::ports::{File, Stat};
use crate::scope::{Scope, hex};
use sha2::{Digest, Sha256};

/// The most bytes of an artifact that cross the component's surface in one call.
pub const MAX_CHUNK: usize = 256 * 1024;

/// How many hexadecimal digits of a SHA-256 the reference writes.
const SHORT_HASH: usize = 16;

/// Where an artifact goes, settled before anything is written.
struct Target {
    run: RunId,
    path: StorePath,
    descriptor: ArtifactDescriptor,
}

/// An artifact being written. Dropping it unfinished removes its stage file.
pub struct ArtifactWriter {
    scope: Scope,
    target: Target,
    stage: StorePath,
    file: Box<dyn File>,
    hash: Sha256,
    size: u64,
    /// Whether the stage file was renamed away.
    finished: bool,
}

impl Drop for ArtifactWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody is left to tell; a stage file left behind is swept later.
            drop(self.scope.tree.remove(&self.stage));
        }
    }
}

impl ArtifactWriter {
    /// Appends to the artifact.
    ///
    /// # Errors
    /// `too-large` for a chunk over 256 KiB, `io`.
    pub fn write(&mut self, chunk: &[u8]) -> Result<()> {
        if chunk.len() > MAX_CHUNK {
            return Err(Error::TooLarge(format!(
                "a chunk has {} bytes; at most {MAX_CHUNK} are taken in one call",
                chunk.len()
            )));
        }
        self.append(chunk)
    }

    fn append(&mut self, chunk: &[u8]) -> Result<()> {
        let written = self.file.write(self.size, chunk);
        written.map_err(|reason| Error::io(self.scope.tree.path(&self.stage), "write", reason))?;
        self.hash.update(chunk);
        self.size += chunk.len() as u64;
        Ok(())
    }

    /// Stores the artifact and returns its descriptor.
    ///
    /// # Errors
    /// `invalid-argument` if size or hash are not those given, `locked`, `io`.
    pub fn finish(mut self) -> Result<ArtifactDescriptor> {
        self.scope.sync_staged(&self.stage, self.file.as_ref())?;
        let written = Fingerprint {
            size: self.size,
            hash: Some(std::mem::take(&mut self.hash).finalize().into()),
        };
        let content = Content::Staged(self.stage.clone());
        let stored = self.scope.store_artifact(&self.target, written, content);
        self.finished = keeps_stage(&stored);
        stored
    }
}

/// An artifact open for reading.
pub struct ArtifactReader {
    scope: Scope,
    path: StorePath,
    file: Box<dyn File>,
    size: u64,
    descriptor: Option<ArtifactDescriptor>,
}

impl ArtifactReader {
    /// Returns its size in bytes when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the descriptor, if the run's manifest has one for this file.
    #[must_use]
    pub fn descriptor(&self) -> Option<ArtifactDescriptor> {
        self.descriptor.clone()
    }

    /// Reads from a byte offset; empty at and beyond the end.
    ///
    /// # Errors
    /// `io`.
    pub fn read(&self, offset: u64, max_bytes: u32) -> Result<Vec<u8>> {
        let wanted = (max_bytes as usize).clamp(1, MAX_CHUNK);
        let mut content =
            self.scope
                .tree
                .read_piece(&self.path, self.file.as_ref(), offset, wanted)?;
        while !content.is_empty() && content.len() < wanted {
            let next = offset + content.len() as u64;
            let piece = self.scope.tree.read_piece(
                &self.path,
                self.file.as_ref(),
                next,
                wanted - content.len(),
            )?;
            if piece.is_empty() {
                break;
            }
            content.extend_from_slice(&piece);
        }
        Ok(content)
    }

    /// Reads it whole.
    ///
    /// # Errors
    /// `too-large` over 256 KiB, `io`.
    pub fn read_whole(&self) -> Result<Vec<u8>> {
        if self.size > MAX_CHUNK as u64 {
            return Err(Error::TooLarge(format!(
                "{} has {} bytes; at most {MAX_CHUNK} are returned in one call: open it and read it in pieces",
                self.scope.tree.path(&self.path),
                self.size
            )));
        }
        self.read(0, u32::try_from(MAX_CHUNK).unwrap_or(u32::MAX))
    }

    /// Hashes the whole content and compares it with the descriptor.
    fn verify(&self) -> Result<()> {
        let file = self.scope.tree.path(&self.path);
        let Some(descriptor) = &self.descriptor else {
            return Err(Error::corrupt(
                file,
                None,
                "no descriptor says what its content should be",
            ));
        };
        let tree = &self.scope.tree;
        let (size, digest) = tree.hash_open(&self.path, self.file.as_ref())?;
        let digest = hex(&digest);
        check_content(descriptor, size, &digest)
            .map_err(|reason| Error::corrupt(file, None, reason))
    }
}

impl Scope {
    /// Returns the run that an artifact belongs to.
    pub(crate) fn artifact_run(descriptor: &ArtifactDescriptor) -> Result<RunId> {
        let metadata = codec::parse_argument_object(
            "the artifact's metadata",
            empty_is_object(&descriptor.metadata),
        )?;
        match metadata.get("_run_id") {
            Some(Value::String(id)) if id.as_str().is_some() => {
                Ok(RunId::parse(id.as_str().unwrap_or_default())?)
            }
            // Like the reference: without a run, the artifact's id stands for one.
            None => Ok(RunId::parse(
                &descriptor
                    .artifact_id
                    .chars()
                    .take(SHORT_HASH)
                    .collect::<String>(),
            )?),
            Some(_) => Err(Error::InvalidArgument(format!(
                "artifact {:?}: the metadata's `_run_id` should be a text",
                descriptor.name
            ))),
        }
    }

    fn target(&self, mut descriptor: ArtifactDescriptor) -> Result<Target> {
        let name = ArtifactName::parse(&descriptor.name)?;
        let format = ArtifactFormat::parse(&descriptor.format)?;
        if descriptor.format.starts_with('.') {
            return Err(Error::InvalidName {
                kind: NameKind::ArtifactFormat,
                name: descriptor.format.clone(),
                message: format!(
                    "artifact format {:?} begins with a dot; give it without, as in \"json\"",
                    descriptor.format
                ),
            });
        }
        let run = Self::artifact_run(&descriptor)?;
        let path = layout::artifact(&run, &name, &format)?;
        if let Some(hash) = &descriptor.content_hash {
            let known = [SHORT_HASH, 64].contains(&hash.len())
                && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
            if !known {
                return Err(Error::InvalidArgument(format!(
                    "artifact {:?}: the content hash {hash:?} is neither a SHA-256 in hexadecimal nor its first {SHORT_HASH} digits",
                    descriptor.name
                )));
            }
        }
        descriptor.uri = self.outside(&path);
        Ok(Target {
            run,
            path,
            descriptor,
        })
    }

    /// Begins an artifact.
    pub(crate) fn create_artifact(&self, descriptor: ArtifactDescriptor) -> Result<ArtifactWriter> {
        let target = self.target(descriptor)?;
        self.prepare_write()?;
        let stage = self.new_staging()?;
        let file = self.tree.create(&stage)?;
        Ok(ArtifactWriter {
            scope: self.clone(),
            target,
            stage,
            file,
            hash: Sha256::new(),
            size: 0,
            finished: false,
        })
    }

    /// Stores a small artifact.
    pub(crate) fn put_artifact(
        &self,
        content: &[u8],
        descriptor: ArtifactDescriptor,
    ) -> Result<ArtifactDescriptor> {
        if content.len() > MAX_CHUNK {
            return Err(Error::TooLarge(format!(
                "the artifact has {} bytes; at most {MAX_CHUNK} are taken in one call: use a writer, or stage a file",
                content.len()
            )));
        }
        let target = self.target(descriptor)?;
        self.prepare_write()?;
        let written = Fingerprint::of(content);
        self.store_artifact(&target, written, Content::Bytes(content.into()))
    }

    /// Names a file in which the host may place an artifact's bytes.
    pub(crate) fn stage_artifact(&self, descriptor: ArtifactDescriptor) -> Result<String> {
        self.target(descriptor)?;
        self.prepare_write()?;
        Ok(self.tree.path(&self.new_staging()?))
    }

    /// Stores the artifact that the host placed in a staged file.
    pub(crate) fn import_artifact(
        &self,
        staged: &str,
        descriptor: ArtifactDescriptor,
        allowed: Result<()>,
    ) -> Result<ArtifactDescriptor> {
        let token = staged
            .strip_prefix(&format!("{}/", layout::staging_directory()))
            .and_then(layout::staging_token_of);
        let Some(stage) = token.map(layout::staging) else {
            return Err(Error::InvalidArgument(format!(
                "{staged:?} is not a name that `stage-artifact` gave out"
            )));
        };
        let imported = allowed.and_then(|()| self.import_staged(&stage, descriptor));
        if !keeps_stage(&imported) {
            // The error of the import is what counts; a stage file left behind is swept later.
            drop(self.tree.remove(&stage));
        }
        imported
    }

    fn import_staged(
        &self,
        stage: &StorePath,
        descriptor: ArtifactDescriptor,
    ) -> Result<ArtifactDescriptor> {
        let target = self.target(descriptor)?;
        self.prepare_write()?;
        let Some((file, _)) = self.tree.open(stage)? else {
            return Err(Error::InvalidArgument(format!(
                "nothing was placed in {}",
                self.tree.path(stage)
            )));
        };
        let (size, digest) = match self.tree.digest(stage) {
            Some((stat, digest)) => (stat.size, digest),
            None => self.tree.hash_open(stage, file.as_ref())?,
        };
        let written = Fingerprint {
            size,
            hash: Some(digest),
        };
        self.sync_staged(stage, file.as_ref())?;
        self.store_artifact(&target, written, Content::Staged(stage.clone()))
    }

    /// Makes a finished stage file durable, its name too, if the store's durability asks for it.
    fn sync_staged(&self, stage: &StorePath, file: &dyn File) -> Result<()> {
        if self.options.durability == Durability::Relaxed {
            return Ok(());
        }
        file.sync_data()
            .map_err(|reason| Error::io(self.tree.path(stage), "sync", reason))?;
        self.tree.sync_directory(&layout::staging_directory())
    }

    /// Checks a finished content, puts it in its place and records it, as one call.
    fn store_artifact(
        &self,
        target: &Target,
        written: Fingerprint,
        content: Content<'_>,
    ) -> Result<ArtifactDescriptor> {
        let mut descriptor = target.descriptor.clone();
        let digest = written.hash.map(|hash| hex(&hash)).unwrap_or_default();
        check_content(&descriptor, written.size, &digest).map_err(|reason| {
            Error::InvalidArgument(format!(
                "artifact {:?} was not stored: {reason}",
                descriptor.name
            ))
        })?;
        descriptor.size_bytes = Some(written.size);
        descriptor.content_hash.get_or_insert(digest);
        let held = self.lock_run(&target.run)?;
        let (manifest, replaced) = self.add_to_manifest(target, &descriptor)?;
        let mut changes = vec![
            Change::Put {
                previous: self.fingerprint(&target.path)?,
                path: target.path.clone(),
                written,
                content,
            },
            manifest.change(),
        ];
        for path in replaced {
            if let Some(previous) = self.fingerprint(&path)? {
                changes.push(Change::Remove { path, previous });
            }
        }
        self.commit(&held, changes)?;
        self.manifest.replace(manifest.known(self.segment_epoch()));
        drop(held);
        Ok(descriptor)
    }

    /// Makes the manifest of a run with one artifact more, and lists the files that go with their entries:
    /// those of an artifact of the same name that differ by their extension.
    fn add_to_manifest(
        &self,
        target: &Target,
        descriptor: &ArtifactDescriptor,
    ) -> Result<(NewManifest, Vec<StorePath>)> {
        let path = layout::artifact_manifest(&target.run);
        let current = self.tree.read(&path, codec::MAX_DOCUMENT)?;
        let public = public_descriptor(descriptor)?;
        let entry = codec::descriptor_to(&public)?;
        let file = target.path.file_name();
        // Whatever fails from here on, what was known is not known any more.
        let known = self.manifest.take();
        if let (Some(current), Some(known)) = (&current, known)
            && known.is(&target.run, current)
            && !known.names.contains(&descriptor.name)
            && !known.files.contains(file)
        {
            let piece = format!(",\n    {}", codec::print(&entry).replace('\n', "\n    "));
            let manifest = known.grown(&descriptor.name, file, piece, self.segment_epoch());
            return Ok((manifest, Vec::new()));
        }
        let (mut object, mut entries) = match &current {
            None => (Object::new(), Vec::new()),
            Some(content) => manifest_parts(&self.tree.path(&path), content)?,
        };
        let name = Value::String(descriptor.name.as_str().into());
        let (replaced, others): (Vec<_>, Vec<_>) = entries
            .drain(..)
            .partition(|entry| field(entry, "name") == Some(&name));
        entries = others;
        // `a` as `tar.gz` and `a.tar` as `gz` are one file.
        if let Some(other) = entries.iter().find(|entry| entry_file(entry) == Some(file)) {
            let other = field(other, "name")
                .map(codec::print_line)
                .unwrap_or_default();
            return Err(Error::Conflict {
                current: None,
                message: format!(
                    "artifact {:?} was not stored: its file {file} is that of artifact {other}; choose another name",
                    descriptor.name
                ),
            });
        }
        let mut removed = Vec::new();
        for entry in &replaced {
            if let Some(file) = entry_file(entry)
                && let Ok(old) = layout::artifact_file(&target.run, file)
                && old != target.path
            {
                removed.push(old);
            }
        }
        entries.push(entry);
        let texts =
            |pick: fn(&Value<'_>) -> Option<String>| entries.iter().filter_map(pick).collect();
        let names = texts(|entry| field(entry, "name")?.as_str().map(str::to_owned));
        let files = texts(|entry| entry_file(entry).map(str::to_owned));
        let plain = object.is_empty();
        object.insert("artifacts", Value::Array(entries));
        let content = codec::print(&Value::Object(object)).into_bytes();
        let manifest = NewManifest::whole(
            &target.run,
            current.as_deref().map(Fingerprint::of),
            content,
            plain.then_some((names, files)),
        );
        Ok((manifest, removed))
    }

    /// Reads the entries of a run's artifact manifest as they are.
    fn artifact_entries(&self, run: &RunId) -> Result<Vec<Value<'static>>> {
        let path = layout::artifact_manifest(run);
        let Some(content) = self.tree.read(&path, codec::MAX_DOCUMENT)? else {
            return Ok(Vec::new());
        };
        let (_, entries) = manifest_parts(&self.tree.path(&path), &content)?;
        Ok(entries.into_iter().map(Value::into_owned).collect())
    }

    /// Lists the artifacts of a run.
    pub(crate) fn list_artifacts(&self, run: &RunId) -> Result<Vec<ArtifactDescriptor>> {
        let file = self.tree.path(&layout::artifact_manifest(run));
        let entries = self.artifact_entries(run)?;
        entries
            .into_iter()
            .enumerate()
            .map(|(index, entry)| codec::descriptor(&file, index, entry))
            .collect()
    }

    /// Opens an artifact for reading.
    pub(crate) fn open_artifact(
        &self,
        artifact: &ArtifactReference,
        verify: bool,
    ) -> Result<ArtifactReader> {
        let (run, path, descriptor) = self.find_artifact(artifact)?;
        let Some((file, Stat { size, .. })) = self.tree.open(&path)? else {
            return Err(not_found(
                artifact,
                &format!("{} is missing", self.tree.path(&path)),
                &run,
            ));
        };
        let reader = ArtifactReader {
            scope: self.clone(),
            path,
            file,
            size,
            descriptor,
        };
        if verify {
            reader.verify()?;
        }
        Ok(reader)
    }

    fn find_artifact(
        &self,
        artifact: &ArtifactReference,
    ) -> Result<(RunId, StorePath, Option<ArtifactDescriptor>)> {
        match artifact {
            ArtifactReference::Name(run, name) => {
                let run = RunId::parse(run)?;
                let found = self
                    .list_artifacts(&run)?
                    .into_iter()
                    .find(|entry| entry.name == *name);
                let Some(descriptor) = found else {
                    // Judged only now: a foreign manifest may list a name that a put would refuse.
                    ArtifactName::parse(name)?;
                    return Err(not_found(
                        artifact,
                        "the run has no artifact of this name",
                        &run,
                    ));
                };
                let path = self.descriptor_path(&run, &descriptor)?;
                Ok((run, path, Some(descriptor)))
            }
            ArtifactReference::Uri(uri) => {
                let Some(tail) = layout::artifact_tail(uri) else {
                    return Err(Error::InvalidArgument(format!(
                        "{uri:?} is not the uri of an artifact: it should end in artifacts/RUN/FILE"
                    )));
                };
                let (_, run, file) = tail;
                let path = layout::artifact_file(&run, file)?;
                // A damaged manifest must not hide the file.
                let listed = self.list_artifacts(&run).unwrap_or_default();
                let descriptor = listed.into_iter().find(|entry| {
                    layout::artifact_tail(&entry.uri).is_some_and(|(_, _, other)| other == file)
                });
                Ok((run, path, descriptor))
            }
        }
    }

    /// Finds the file of a descriptor: by the tail of its uri, else by its name and format.
    pub(crate) fn descriptor_path(
        &self,
        run: &RunId,
        descriptor: &ArtifactDescriptor,
    ) -> Result<StorePath> {
        if let Some(tail) = layout::artifact_tail(&descriptor.uri) {
            return Ok(layout::artifact_file(run, tail.2)?);
        }
        let name = ArtifactName::parse(&descriptor.name)?;
        Ok(layout::artifact(
            run,
            &name,
            &ArtifactFormat::parse(&descriptor.format)?,
        )?)
    }
}

/// Takes the entries out of an artifact manifest; what else it holds stays.
fn manifest_parts<'c>(file: &str, content: &'c [u8]) -> Result<(Object<'c>, Vec<Value<'c>>)> {
    let mut object = codec::parse_object(file, content)?;
    match object.remove("artifacts") {
        None => Ok((object, Vec::new())),
        Some(Value::Array(entries)) => Ok((object, entries)),
        Some(_) => Err(Error::corrupt(file, None, "`artifacts` should be a list")),
    }
}

/// Says whether a stage file must stay: it was renamed away, or a recovery may need it.
fn keeps_stage(stored: &Result<ArtifactDescriptor>) -> bool {
    matches!(
        stored,
        Ok(_)
            | Err(Error::Io {
                outcome_unknown: true,
                ..
            })
    )
}

fn field<'v, 'a>(entry: &'v Value<'a>, name: &str) -> Option<&'v Value<'a>> {
    match entry {
        Value::Object(object) => object.get(name),
        _ => None,
    }
}

/// Returns the file that an entry of an artifact manifest is about.
fn entry_file<'v>(entry: &'v Value<'_>) -> Option<&'v str> {
    let uri = field(entry, "uri")?.as_str()?;
    layout::artifact_tail(uri).map(|(_, _, file)| file)
}

fn empty_is_object(text: &str) -> &str {
    if text.is_empty() { "{}" } else { text }
}

/// Returns the descriptor as the artifact manifest holds it: without metadata keys that begin with `_`.
pub(crate) fn public_descriptor(descriptor: &ArtifactDescriptor) -> Result<ArtifactDescriptor> {
    let mut public = descriptor.clone();
    let metadata = codec::parse_argument_object(
        "the artifact's metadata",
        empty_is_object(&descriptor.metadata),
    )?;
    let mut kept = Object::new();
    for (key, value) in metadata {
        if !key.as_wtf8().starts_with(b"_") {
            kept.insert(key, value);
        }
    }
    public.metadata = codec::print_line(&Value::Object(kept));
    Ok(public)
}

/// Compares a content with what its descriptor says; the error is the reason.
pub(crate) fn check_content(
    descriptor: &ArtifactDescriptor,
    size: u64,
    digest: &str,
) -> std::result::Result<(), String> {
    if let Some(expected) = descriptor.size_bytes
        && expected != size
    {
        return Err(format!(
            "its content has {size} bytes, its descriptor says {expected}"
        ));
    }
    if let Some(expected) = &descriptor.content_hash
        && !digest.starts_with(&expected.to_ascii_lowercase())
    {
        return Err(format!(
            "the SHA-256 of its content is {digest}, its descriptor says {expected}"
        ));
    }
    Ok(())
}

fn not_found(artifact: &ArtifactReference, reason: &str, run: &RunId) -> Error {
    let name = match artifact {
        ArtifactReference::Uri(uri) => uri,
        ArtifactReference::Name(_, name) => name,
    };
    Error::NotFound {
        kind: NameKind::Artifact,
        name: name.clone(),
        message: format!(
            "there is no artifact {name:?} of run {:?}: {reason}",
            run.as_str()
        ),
    }
}

# Reads the object format (docs/protocol.md §2): the artifacts that finished attempts left in the artifact store.

footer_bytes <- 24L
magic <- charToRaw("CAUSEY1\n")

read_range <- function(path, offset, count) {
  connection <- file(path, "rb")
  on.exit(close(connection))
  if (offset > 0) seek(connection, offset)
  readBin(connection, "raw", count)
}

number_of <- function(bytes) {
  halves <- as.numeric(readBin(bytes, "integer", 2L, size = 4L, endian = "little"))
  halves <- ifelse(halves < 0, halves + 2^32, halves)
  halves[1] + halves[2] * 2^32
}

# `fetch` brings a missing file into the store or raises.
open_object <- function(store, reference, fetch) {
  inside <- file.path("runs", reference$run, reference$key)
  path <- file.path(store, inside)
  if (!file.exists(path)) fetch(inside)
  size <- file.size(path)
  footer <- if (size >= footer_bytes) read_range(path, size - footer_bytes, footer_bytes)
  if (!identical(footer[17:24], magic)) stop(inside, " is not a Causey object: its footer is damaged")
  length <- number_of(footer[1:8])
  offset <- number_of(footer[9:16])
  if (offset + length + footer_bytes > size) stop(inside, " is damaged: its manifest lies outside of the file")
  manifest <- from_json(as_text(read_range(path, offset, length)))
  list(reference = reference, manifest = manifest, store = store, path = path, fetch = fetch)
}

artifact_of <- function(object, name) {
  entry <- object$manifest$artifacts[[name]]
  if (is.null(entry)) NULL else list(name = name, entry = entry, object = object)
}

raw_of <- function(artifact) {
  entry <- artifact$entry
  object <- artifact$object
  if (!is.null(entry$blob)) {
    inside <- file.path("cas", entry$blob)
    path <- file.path(object$store, inside)
    if (!file.exists(path)) object$fetch(inside)
    return(readBin(path, "raw", file.size(path)))
  }
  path <- object$path
  if (!is.null(entry$object)) {
    holder <- object$manifest$objects[[entry$object + 1L]]
    inside <- file.path("runs", holder$run, holder$key)
    path <- file.path(object$store, inside)
    if (!file.exists(path)) object$fetch(inside)
  }
  read_range(path, entry$offset, entry$bytes)
}

load_artifact <- function(artifact) {
  entry <- artifact$entry
  decode(raw_of(artifact), entry$encoding, artifact$name, artifact$object$manifest$task$step, entry$type)
}

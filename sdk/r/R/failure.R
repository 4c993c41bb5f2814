# A condition of user code as the ERROR of the protocol: what R said, where, and R's own call stack without the SDK's frames.

text_max <- 64000L

describe_failure <- function(failure, calls, step, root) {
  kind <- class(failure)[1]
  if (kind == "simpleError") kind <- "Error"
  message <- conditionMessage(failure)
  frames <- user_frames(calls)
  # The innermost call whose place is known is where the person looks first.
  places <- Filter(Negate(is.null), lapply(rev(frames), function(call) place_of(call, root)))
  own <- Filter(function(place) !startsWith(place$file, "/"), places)
  place <- if (length(own)) own[[1]] else if (length(places)) places[[1]] else NULL
  parts <- strsplit(message, "\nhint: ", fixed = TRUE)[[1]]
  hint <- if (length(parts) > 1L) parts[2] else missing_package(failure)
  shown <- vapply(seq_along(frames), function(number) frame_text(number, frames[[number]], root), "")
  call <- conditionCall(failure)
  head <- if (is.null(call)) sprintf("Error: %s", message) else sprintf("Error in %s : %s", first_line(call), message)
  traceback <- paste0(paste(c(head, if (length(shown)) c("Calls:", shown)), collapse = "\n"), "\n")
  error <- list(type = kind, message = clip(parts[1]), traceback = clip(traceback), step = step, hint = hint,
    hash = content_hash(charToRaw(paste(c(kind, vapply(frames, first_line, "")), collapse = "\n"))),
    classes = as.list(setdiff(class(failure)[-1], "condition")))
  if (!is.null(place)) error[c("file", "line", "source")] <- place[c("file", "line", "source")]
  error
}

# The calls between the SDK's call of the step and the handlers of the error.
user_frames <- function(calls) {
  if (is.null(calls)) return(list())
  is_call_of <- function(call, names) is.call(call) && is.name(call[[1]]) && as.character(call[[1]]) %in% names
  # While a flow file is loaded its expressions are evaluated by the SDK's call of eval.
  start <- Position(function(call) is_call_of(call, c("causey_step", "load_flow")), calls)
  if (!is.na(start)) calls <- calls[-seq_len(start)]
  end <- Position(function(call) is_call_of(call, c(".handleSimpleError", "h", "stop", ".signalSimpleWarning")) || is.function(call[[1]]), calls)
  if (!is.na(end)) calls <- calls[seq_len(end - 1L)]
  Filter(function(call) !is_call_of(call, c("eval", "tryCatch", "tryCatchList", "tryCatchOne", "doTryCatch", "withCallingHandlers", "step",
    "$.causey_task", "task_value", "load_artifact", "decode")) || !is.null(attr(call, "srcref")), as.list(calls))
}

place_of <- function(call, root) {
  srcref <- attr(call, "srcref")
  if (is.null(srcref)) return(NULL)
  file <- attr(srcref, "srcfile")$filename
  if (is.null(file) || !nzchar(file)) return(NULL)
  path <- normalizePath(file, mustWork = FALSE)
  root <- paste0(normalizePath(root, mustWork = FALSE), "/")
  if (startsWith(path, root)) path <- substring(path, nchar(root) + 1L)
  list(file = path, line = as.integer(srcref[1]), source = trimws(as.character(srcref)[1]))
}

frame_text <- function(number, call, root) {
  place <- place_of(call, root)
  at <- if (is.null(place)) "" else sprintf(" at %s#%d", place$file, place$line)
  sprintf("%3d: %s%s", number, first_line(call), at)
}

first_line <- function(call) {
  text <- deparse(call, nlines = 1L, width.cutoff = 120L)[1]
  if (nchar(text) > 160L) paste0(substr(text, 1L, 157L), "...") else text
}

missing_package <- function(failure) {
  if (inherits(failure, "packageNotFoundError")) sprintf("install.packages(\"%s\")", failure$package) else NULL
}

clip <- function(text) {
  if (nchar(text) <= text_max) return(text)
  sprintf("%s\n[...]\n%s", substr(text, 1L, text_max %/% 2L), substring(text, nchar(text) - text_max %/% 2L))
}

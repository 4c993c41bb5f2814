# The runner of the host protocol (docs/protocol.md §1), over a pair of named pipes: base R cannot open a Unix socket.

host <- function() {
  if (!isTRUE(l10n_info()[["UTF-8"]])) suppressWarnings(Sys.setlocale("LC_CTYPE", "C.UTF-8"))
  # Warnings are shown when they happen, in the log.
  options(warn = 1L, keep.source = TRUE)
  channel <- open_channel(Sys.getenv("CAUSEY_HOST_READ"), Sys.getenv("CAUSEY_HOST_WRITE"))
  language <- paste0("r ", R.version$major, ".", R.version$minor)
  send(channel, list(type = "hello", protocol = 1L, host = Sys.getenv("CAUSEY_HOST_ID"), role = "runner", pid = Sys.getpid(), language = language))
  file <- Sys.getenv("CAUSEY_FLOW_FILE")
  folder <- getwd()
  calls <- NULL
  flow <- tryCatch(withCallingHandlers(load_flow(file), error = function(failure) calls <<- sys.calls()), error = function(failure) failure)
  if (inherits(flow, "error")) {
    send(channel, list(type = "load_failed", error = load_error(flow, calls, file)))
    return(1L)
  }
  code <- list(find = function(name) find_step(flow, name, file))
  send(channel, list(type = "ready"))
  repeat {
    line <- receive(channel)
    if (is.null(line)) return(0L)
    if (!identical(line$type, "run")) return(1L)
    # What an earlier attempt did to this process.
    setwd(folder)
    if (exists(".Random.seed", envir = globalenv(), inherits = FALSE)) rm(".Random.seed", envir = globalenv())
    answer <- answer_run(line, code, channel)
    flush(stdout())
    flush(stderr())
    send(channel, answer)
  }
}

load_error <- function(failure, calls, file) {
  name <- basename(file)
  if (inherits(failure, "causey_problem")) {
    place <- if (failure$line > 0L) failure$line
    return(list(type = "InvalidFlow", message = failure$message, traceback = paste0(failure$message, "\n"), file = name, line = place, hint = failure$hint))
  }
  error <- describe_failure(failure, calls, NULL, dirname(file))
  if (is.null(error$line)) error[c("file", "line")] <- list(name, loading$failed_line)
  error
}

# A step of the flow, or a function of the file where the flow is defined elsewhere.
find_step <- function(flow, name, file) {
  if (is.null(flow)) {
    found <- get0(name, envir = globalenv(), mode = "function", inherits = FALSE)
    if (is.null(found)) {
      known <- Filter(function(each) is.function(get(each, envir = globalenv())), ls(globalenv()))
      hint <- did_you_mean(name, known)
      stop(sprintf("%s has no function '%s', which step '%s' needs%s", basename(file), name, name, if (is.null(hint)) "" else paste0("\nhint: ", hint)), call. = FALSE)
    }
    return(found)
  }
  for (each in flow$steps) if (each$name == name) return(each$code)
  stop(sprintf("flow '%s' has no step '%s'", flow$name, name), call. = FALSE)
}

open_channel <- function(read, write) {
  if (!nzchar(read) || !nzchar(write)) stop("CAUSEY_HOST_READ is not set: this is started by a worker")
  list(read = fifo(read, "rb", blocking = TRUE), write = fifo(write, "wb", blocking = TRUE))
}

send <- function(channel, message) {
  line <- to_json(message)
  if (nchar(line, "bytes") > 1024 * 1024) {
    reason <- "what the step left does not fit into a line of 1 MiB"
    error <- list(type = "Error", message = reason, traceback = paste0(reason, "\n"))
    line <- to_json(list(type = "failed", key = message$key, retryable = FALSE, error = error))
  }
  writeBin(charToRaw(paste0(enc2utf8(line), "\n")), channel$write)
  flush(channel$write)
}

receive <- function(channel) {
  line <- readLines(channel$read, n = 1L, warn = FALSE)
  if (!length(line)) return(NULL)
  Encoding(line) <- "UTF-8"
  from_json(line)
}

# A question in the middle of an attempt.
ask <- function(channel, question) {
  send(channel, question)
  answer <- receive(channel)
  if (is.null(answer)) stop("the worker went away")
  answer
}

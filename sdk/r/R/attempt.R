# One attempt at a task: from a `run` line to the `finished` or `failed` that answers it.

inline_bytes_max <- 16 * 1024
own_file_bytes_min <- 1024 * 1024
alignment <- 64L

publications <- new.env(parent = emptyenv())

#' Publishes a model once the step has succeeded. Formats: "rds", "json", "text", "bytes".
publish <- function(name, model, format = "rds", metrics = list(), tags = list(), description = "") {
  check_name(name, "model")
  encoded <- switch(format,
    rds = encode(model),
    json = list(bytes = charToRaw(enc2utf8(to_json(model))), encoding = "json", type = class(model)[1]),
    text = list(bytes = charToRaw(enc2utf8(paste(model, collapse = "\n"))), encoding = "text", type = "str"),
    bytes = list(bytes = model, encoding = "bytes", type = "raw"),
    stop(sprintf("models have no format '%s'; use rds, json, text or bytes", format), call. = FALSE))
  artifact <- paste0("_model_", name)
  publications$models[[artifact]] <- encoded
  made <- list(model = name, artifact = artifact, format = format, metrics = as_object(metrics), tags = as_object(tags),
    description = description, allow_pickle = FALSE)
  publications$list[[length(publications$list) + 1L]] <- made
  invisible(NULL)
}

as_object <- function(fields) if (length(fields)) as.list(fields) else structure(list(), names = character())

answer_run <- function(run, code, channel) {
  publications$list <- list()
  publications$models <- list()
  fill_current(run)
  calls <- NULL
  tryCatch(
    withCallingHandlers(finish_run(run, code, channel), error = function(failure) calls <<- sys.calls()),
    error = function(failure) failed_line(run, failure, calls),
    interrupt = function(failure) failed_line(run, simpleError("the step was interrupted"), NULL)
  )
}

failed_line <- function(run, failure, calls) {
  setTimeLimit()
  error <- describe_failure(failure, calls, run$step, getwd())
  # Into the task's log too: what the step printed and why it ended belong together.
  cat(error$traceback, file = stderr())
  timed_out <- grepl("reached elapsed time limit", conditionMessage(failure), fixed = TRUE)
  if (timed_out) {
    error$type <- "TimeoutException"
    error$message <- sprintf("step '%s' timed out after %s seconds", run$step, format(run$timeout_seconds))
  }
  retryable <- !inherits(failure, c("causey_unreadable", "causey_missing"))
  list(type = "failed", key = run$key, retryable = retryable, timed_out = timed_out, error = error)
}

finish_run <- function(run, code, channel) {
  fetch <- function(path) {
    answer <- ask(channel, list(type = "fetch", path = path))
    if (answer$type != "fetched") stop(path, " cannot be fetched: ", answer$message)
  }
  parents <- lapply(all_inputs(run, channel), function(input) list(input = input, object = open_object(run$store, input, fetch)))
  path <- as.integer(unlist(run$path))
  parameters <- lapply(run$parameters, simplify)
  step <- code$find(run$step)
  is_join <- length(formals(args(step))) > 1L
  parent <- if (!is_join && length(parents)) parents[[1]]$object else NULL
  self <- new_task(run$step, path, parameters, parent)
  if (is_join && length(parents)) {
    # Where the join stands among foreaches is known from any of its inputs.
    hidden <- hidden_of(self)
    hidden$artifacts[[split_stack]] <- artifact_of(parents[[1]]$object, split_stack)
  }
  if (!is.null(run$timeout_seconds)) setTimeLimit(elapsed = run$timeout_seconds, transient = TRUE)
  restore <- set_variables(run$environment)
  on.exit(restore())
  if (is_join) {
    inputs <- lapply(parents, function(parent) new_task(parent$input$step, as.integer(unlist(parent$input$path)), parameters, parent$object, TRUE))
    names(inputs) <- vapply(parents, function(parent) parent$input$step, "")
    causey_step(step, self, inputs)
  } else {
    causey_step(step, self)
  }
  setTimeLimit()
  result_line(run, self, is_join)
}

# Sets variables for the time of a step; what it returns puts the former ones back: the process may run other steps.
set_variables <- function(variables) {
  names <- names(variables)
  if (!length(names)) return(function() NULL)
  before <- Sys.getenv(names, unset = NA, names = TRUE)
  do.call(Sys.setenv, as.list(variables))
  function() {
    set <- before[!is.na(before)]
    if (length(set)) do.call(Sys.setenv, as.list(set))
    Sys.unsetenv(names[is.na(before)])
  }
}

# Its name marks where the user's call stack begins.
causey_step <- function(step, ...) step(...)

all_inputs <- function(run, channel) {
  if (!is.null(run$inputs_file)) return(from_json(paste(readLines(run$inputs_file, warn = FALSE, encoding = "UTF-8"), collapse = "\n")))
  table <- run$inputs_table
  if (is.null(table)) return(run$inputs)
  for (from in seq(0, table$count - 1, by = 1024)) {
    answer <- ask(channel, list(type = "inputs", from = from, count = min(1024, table$count - from)))
    if (answer$type != "inputs_ready") stop("the inputs cannot be read: ", answer$message)
  }
  bytes <- readBin(table$file, "raw", 64 * table$count)
  hex <- function(part) paste(format(part), collapse = "")
  lapply(seq_len(table$count), function(place) {
    row <- bytes[(64 * (place - 1) + 1):(64 * place)]
    id <- hex(row[1:16])
    run_id <- paste(substring(id, c(1, 9, 13, 17, 21), c(8, 12, 16, 20, 32)), collapse = "-")
    list(step = table$step, path = c(table$path, list(place - 1)), run = run_id, key = hex(row[17:32]), digest = hex(row[33:64]))
  })
}

# What a step left, in the terms of the protocol.
new_report <- function(folder) {
  report <- new.env(parent = emptyenv())
  report$folder <- folder
  report$data <- raw()
  report$own_files <- 0L
  report$objects <- list()
  report$artifacts <- structure(list(), names = character())
  report
}

add_encoded <- function(report, name, encoded) {
  bytes <- encoded$bytes
  entry <- list(bytes = length(bytes), encoding = encoded$encoding, type = encoded$type, hash = content_hash(bytes))
  if (length(bytes) >= own_file_bytes_min) {
    entry$file <- sprintf("big-%d", report$own_files)
    entry$offset <- 0L
    writeBin(bytes, file.path(report$folder, entry$file))
    report$own_files <- report$own_files + 1L
  } else {
    report$data <- c(report$data, raw(-length(report$data) %% alignment))
    entry$file <- "data"
    entry$offset <- length(report$data)
    report$data <- c(report$data, bytes)
  }
  report$artifacts[[name]] <- entry
}

add_inherited <- function(report, artifact) {
  entry <- artifact$entry
  made <- entry[intersect(names(entry), c("bytes", "buffers", "encoding", "type", "hash", "blob", "offset"))]
  if (is.null(entry$blob)) {
    object <- artifact$object
    holder <- if (is.null(entry$object)) object$reference else object$manifest$objects[[entry$object + 1L]]
    holder <- holder[c("run", "key", "digest")]
    place <- Position(function(each) identical(each, holder), report$objects)
    if (is.na(place)) {
      report$objects[[length(report$objects) + 1L]] <- holder
      place <- length(report$objects)
    }
    made$object <- place - 1L
  }
  report$artifacts[[artifact$name]] <- made
}

result_line <- function(run, self, is_join) {
  hidden <- hidden_of(self)
  typed <- isTRUE(run$typed)
  report <- new_report(run$folder)
  for (name in ls(self, all.names = FALSE)) {
    inherited <- hidden$artifacts[[name]]
    encoded <- tryCatch(encode(get(name, envir = self), typed), error = function(failure) {
      stop(sprintf("artifact '%s' cannot be kept: %s", name, conditionMessage(failure)), call. = FALSE)
    })
    same <- !is.null(inherited) && isTRUE(hidden$loaded[[name]]) && still_as_loaded(encoded, inherited, typed)
    if (same) add_inherited(report, inherited) else add_encoded(report, name, encoded)
  }
  transition <- run$transition
  opens <- is.list(transition) && !is.null(transition$foreach)
  for (name in names(hidden$artifacts)) {
    if (!is.null(report$artifacts[[name]]) || startsWith(name, "_model_")) next
    if (is_about_foreach(name) && (opens || !length(hidden$path))) next
    add_inherited(report, hidden$artifacts[[name]])
  }
  onward <- go_on(run, self, report, typed)
  for (name in names(publications$models)) add_encoded(report, name, publications$models[[name]])
  line <- list(type = "finished", key = run$key, `next` = as.list(onward$targets), foreach = onward$count, objects = report$objects,
    artifacts = report$artifacts, publish = publications$list)
  if (length(report$data) <= inline_bytes_max) {
    line$data <- gsub("\n", "", jsonlite::base64_enc(report$data), fixed = TRUE)
  } else {
    writeBin(report$data, file.path(run$folder, "data"))
  }
  line
}

# A value that was only read has the bytes it had, or those that the same value gets here.
still_as_loaded <- function(encoded, artifact, typed) {
  if (encoded$encoding == artifact$entry$encoding && identical(content_hash(encoded$bytes), artifact$entry$hash)) return(TRUE)
  identical(encode(load_artifact(artifact), typed)$bytes, encoded$bytes)
}

go_on <- function(run, self, report, typed) {
  transition <- run$transition
  if (is.character(transition)) return(list(targets = character(), count = NULL))
  kind <- names(transition)[1]
  how <- transition[[kind]]
  if (kind == "linear") return(list(targets = how$to, count = NULL))
  if (kind == "branch") return(list(targets = unlist(how$to), count = NULL))
  if (kind == "switch") {
    value <- task_value(self, how$condition)
    case <- Filter(function(each) identical(as.character(each$value), as.character(value)), how$cases)
    if (!length(case)) {
      known <- paste(vapply(how$cases, function(each) as.character(each$value), ""), collapse = ", ")
      stop(sprintf("step '%s' switches on '%s', which is '%s'; the cases are %s", run$step, how$condition, paste(value, collapse = " "), known), call. = FALSE)
    }
    return(list(targets = case[[1]]$to, count = NULL))
  }
  if (kind != "foreach") stop(sprintf("steps in R cannot go on by '%s'", kind), call. = FALSE)
  items <- as_items(task_value(self, how$variable))
  if (!length(items)) stop(sprintf("foreach over '%s' in step '%s' has no items: it needs at least one", how$variable, run$step), call. = FALSE)
  for (start in seq(1, length(items), by = items_per_chunk)) {
    piece <- unname(items[start:min(start + items_per_chunk - 1L, length(items))])
    add_encoded(report, paste0(items_prefix, (start - 1) %/% items_per_chunk), encode_items(piece, typed))
  }
  outer <- utils::head(split_levels(hidden_of(self)), length(hidden_of(self)$path))
  stack <- c(outer, list(list(how$variable, report$artifacts[[how$variable]]$hash)))
  report$artifacts[[split_stack]] <- NULL
  add_encoded(report, split_stack, list(bytes = charToRaw(to_json(stack)), encoding = "json", type = "list"))
  list(targets = how$to, count = length(items))
}

encode_items <- function(items, typed) {
  plain <- if (typed) as_plain(items)
  if (is.null(plain)) return(list(bytes = serialize(items, NULL, version = 3L), encoding = "rds", type = "list"))
  list(bytes = charToRaw(enc2utf8(to_json(plain$value))), encoding = "json", type = "list")
}

fill_current <- function(run) {
  path <- unlist(run$path)
  set <- function(name, value) assign(name, value, envir = current)
  set("run_id", run$run)
  set("run_name", run$run_name)
  set("flow_name", run$flow)
  set("step_name", run$step)
  set("task", if (length(path)) paste(path, collapse = ".") else "0")
  set("attempt", run$attempt)
  set("retry_count", run$retry)
  set("idempotency_key", run$idempotency_key)
  set("user", run$user)
  set("tags", unlist(run$tags))
  set("trigger", run$trigger)
}

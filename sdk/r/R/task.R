# `self`: the artifacts of a task. What a step assigns is kept; what it does not find there is read from what its parents left.

items_prefix <- "_items_"
items_per_chunk <- 1000L
split_stack <- "_split_stack"

#' What the running step knows of its run: run_id, run_name, flow_name, step_name, task, attempt, retry_count, idempotency_key, user,
#' tags, trigger.
current <- new.env(parent = emptyenv())

is_about_foreach <- function(name) name == split_stack || startsWith(name, items_prefix)

# `object` is what the parent left, NULL in the first step and in a join.
new_task <- function(step, path, parameters, object, is_input = FALSE) {
  task <- new.env(parent = emptyenv())
  hidden <- new.env(parent = emptyenv())
  hidden$step <- step
  hidden$path <- path
  hidden$parameters <- parameters
  hidden$artifacts <- list()
  hidden$is_input <- is_input
  hidden$loaded <- list()
  if (!is.null(object)) {
    for (name in names(object$manifest$artifacts)) hidden$artifacts[[name]] <- artifact_of(object, name)
  }
  assign(".task", hidden, envir = task)
  structure(task, class = "causey_task")
}

hidden_of <- function(task) get(".task", envir = task, inherits = FALSE)

`$.causey_task` <- function(x, name) task_value(x, name)

`[[.causey_task` <- function(x, i) task_value(x, i)

`$<-.causey_task` <- function(x, name, value) set_task_value(x, name, value)

`[[<-.causey_task` <- function(x, i, value) set_task_value(x, i, value)

names.causey_task <- function(x) {
  hidden <- hidden_of(x)
  own <- ls(x, all.names = FALSE)
  inherited <- Filter(function(name) !startsWith(name, "_"), names(hidden$artifacts))
  sort(unique(c(own, inherited, names(hidden$parameters))))
}

print.causey_task <- function(x, ...) {
  hidden <- hidden_of(x)
  place <- if (length(hidden$path)) sprintf("[%s]", paste(hidden$path, collapse = ",")) else ""
  cat("<task ", hidden$step, place, "> ", paste(names(x), collapse = ", "), "\n", sep = "")
  invisible(x)
}

task_value <- function(task, name) {
  if (exists(name, envir = task, inherits = FALSE)) return(get(name, envir = task, inherits = FALSE))
  hidden <- hidden_of(task)
  if (name == "index") return(if (length(hidden$path)) hidden$path[length(hidden$path)] else NULL)
  if (name == "input") return(split_value(task))
  artifact <- hidden$artifacts[[name]]
  if (!is.null(artifact)) {
    value <- load_artifact(artifact)
    # Kept once, so that reading it again costs nothing; whether it was changed is seen from its bytes.
    assign(name, value, envir = task)
    hidden$loaded[[name]] <- TRUE
    return(value)
  }
  if (name %in% names(hidden$parameters)) return(hidden$parameters[[name]])
  known <- c(names(task), "input", "index")
  hint <- did_you_mean(name, known)
  message <- sprintf("there is no '%s' here: no step before '%s' left it, and no parameter has this name", name, hidden$step)
  stop(structure(class = c("causey_missing", "error", "condition"), list(call = NULL,
    message = if (is.null(hint)) message else paste0(message, "\nhint: ", hint))))
}

set_task_value <- function(task, name, value) {
  hidden <- hidden_of(task)
  if (name %in% c("input", "index") || name %in% names(hidden$parameters)) stop(sprintf("'%s' cannot be changed in a step", name), call. = FALSE)
  if (!grepl("^[A-Za-z][A-Za-z0-9_.]*$", name)) stop(sprintf("'%s' cannot be the name of an artifact", name), call. = FALSE)
  assign(name, value, envir = task)
  task
}

# The enclosing foreach levels, outermost first, each with variable and hash.
split_levels <- function(hidden) {
  artifact <- hidden$artifacts[[split_stack]]
  if (is.null(artifact)) list() else from_json(as_text(raw_of(artifact)))
}

# The item that this task works on.
split_value <- function(task) {
  hidden <- hidden_of(task)
  depth <- length(hidden$path)
  levels <- split_levels(hidden)
  if (depth == 0L || depth > length(levels)) return(NULL)
  index <- hidden$path[depth]
  variable <- levels[[depth]][[1]]
  if (!nzchar(variable)) return(index)
  whole <- hidden$artifacts[[variable]]
  chunk <- hidden$artifacts[[paste0(items_prefix, index %/% items_per_chunk)]]
  # The pieces are those of the latest split above, which is this level only if nothing deeper was joined.
  if (!is.null(whole) && !is.null(chunk) && depth == length(levels) && identical(whole$entry$hash, levels[[depth]][[2]])) {
    return(chunk_items(chunk)[[index %% items_per_chunk + 1L]])
  }
  as_items(task_value(task, variable))[[index + 1L]]
}

chunk_items <- function(chunk) {
  if (chunk$entry$encoding != "json") return(as_items(load_artifact(chunk)))
  lapply(from_json(as_text(raw_of(chunk))), simplify)
}

# What a foreach runs over: the elements of a vector or list, the rows of a data frame.
as_items <- function(value) {
  if (is.data.frame(value)) return(lapply(seq_len(nrow(value)), function(row) value[row, , drop = FALSE]))
  as.list(value)
}

#' In a join: takes over what all inputs have alike. Names in `exclude` are left out; with `include` only those are taken.
merge_artifacts <- function(self, inputs, exclude = character(), include = NULL) {
  hidden <- hidden_of(self)
  tables <- lapply(inputs, function(input) hidden_of(input)$artifacts)
  names <- unique(unlist(lapply(tables, names)))
  names <- names[!startsWith(names, "_")]
  wanted <- setdiff(if (is.null(include)) names else include, exclude)
  wanted <- Filter(function(name) !exists(name, envir = self, inherits = FALSE), wanted)
  for (name in wanted) {
    found <- Filter(Negate(is.null), lapply(tables, function(table) table[[name]]))
    hashes <- unique(vapply(found, function(artifact) artifact$entry$hash, ""))
    if (length(hashes) != 1L || !nzchar(hashes)) {
      stop(sprintf("the inputs of '%s' have different values of '%s'\nhint: set self$%s, or exclude it", hidden$step, name, name), call. = FALSE)
    }
    hidden$artifacts[[name]] <- found[[1]]
  }
  invisible(self)
}

# What is wrong with a flow file: a condition with place and hint, and the file that is being loaded.

loading <- new.env(parent = emptyenv())
loading$active <- FALSE

problem <- function(message, line = 0L, step = NULL, hint = NULL) {
  if (line == 0L && !is.null(loading$line)) line <- loading$line
  condition <- list(message = message, call = NULL, line = line, step = step, hint = hint)
  stop(structure(class = c("causey_problem", "error", "condition"), condition))
}

did_you_mean <- function(name, known) {
  if (!length(known)) return(NULL)
  distance <- utils::adist(name, known, ignore.case = TRUE)[1, ]
  best <- which.min(distance)
  if (distance[best] <= max(2, nchar(name) %/% 3)) sprintf("did you mean '%s'?", known[best]) else NULL
}

# Parses and evaluates a flow file in the global environment, and finds its flow; NULL when it has none.
load_flow <- function(file) {
  loading$active <- TRUE
  loading$main <- NULL
  loading$file <- normalizePath(file, mustWork = FALSE)
  on.exit({
    loading$active <- FALSE
    loading$line <- NULL
  })
  options(keep.source = TRUE)
  expressions <- tryCatch(parse(file, keep.source = TRUE, encoding = "UTF-8"), error = function(failure) {
    text <- conditionMessage(failure)
    place <- regmatches(text, regexec(":([0-9]+):([0-9]+): ([^\n]*)", text))[[1]]
    if (length(place) < 4L) problem(text)
    problem(paste0("this is no R: ", place[4]), as.integer(place[2]))
  })
  places <- attr(expressions, "srcref")
  last <- NULL
  for (place in seq_along(expressions)) {
    loading$line <- as.integer(places[[place]][1])
    # A handler of the error sees it after this function has ended.
    loading$failed_line <- loading$line
    last <- eval(expressions[place], globalenv())
  }
  if (!is.null(loading$main)) return(loading$main)
  if (inherits(last, "causey_flow")) return(last)
  flows <- Filter(function(each) inherits(each, "causey_flow"), mget(ls(globalenv()), envir = globalenv()))
  if (length(flows) == 1L) return(flows[[1]])
  if (length(flows) > 1L) {
    loading$line <- NULL
    problem(sprintf("the file defines several flows: %s", paste(names(flows), collapse = ", ")), hint = "end it with causey_main(THE_FLOW)")
  }
  NULL
}

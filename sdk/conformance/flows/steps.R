# What a host is asked to run by conformance.py, in R.

values <- function(self) {
  self$number <- 41L
  self$half <- 0.5
  self$word <- "Gr\u00fc\u00dfe"
  self$items <- c(10L, 20L, 30L)
  self$record <- list(a = 1L, b = list(TRUE, NULL))
}

read <- function(self) {
  self$sum <- self$number + 1L
  self$greeting <- paste0(self$word, "!")
}

item <- function(self) {
  self$doubled <- self$input * 2L
}

gather <- function(self, inputs) {
  self$all <- vapply(inputs, function(each) each$doubled, 0L, USE.NAMES = FALSE)
}

talk <- function(self) {
  cat("to stdout\n")
  message("to stderr")
}

fail <- function(self) {
  stop("no luck")
}

slow <- function(self) {
  cat("begun\n")
  # R looks at time limits between calls, not inside one.
  for (n in 1:600) Sys.sleep(0.1)
}

leave <- function(self) {
  quit(save = "no", status = 3)
}

large <- function(self) {
  self$text <- strrep("x", 2e6)
}

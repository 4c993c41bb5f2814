turn <- function(self) {
  frame <- self$frame
  stopifnot(is.data.frame(frame), identical(names(frame), c("n", "x", "name", "ok")), is.integer(frame$n), is.na(frame$x[2]),
    frame$x[3] == 1e-300, identical(frame$name[2], "\u00fc"), is.logical(frame$ok))
  frame$n <- frame$n * 2L
  self$frame <- frame
  self$half <- 0.5
  self$back <- self$text
  stopifnot(self$third == 1 / 3, is.null(self$nothing), length(self$empty) == 0L, self$nested$b$c == "d")
}

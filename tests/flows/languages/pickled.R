read <- function(self) {
  stopifnot(identical(self$fine, 1:2))
  self$odd
}

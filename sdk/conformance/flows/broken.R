values <- function(self) {
  self$x <- )
}

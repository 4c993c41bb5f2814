start <- function(self) {
  self$model <- lm(dist ~ speed, cars)
}

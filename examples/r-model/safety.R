# Did the seat-belt law of 1983 save drivers? The classic intervention series of British road casualties (R's own data), in R alone:
# one task per casualty series and ARIMA order, the best order of each series by AIC, and a published model.
#
# causey run safety.R            # or: Rscript safety.R run, with the package causey installed
# causey deploy safety.R         # then every event dataset.arrived runs it again

library(causey)

# Log of the monthly casualties up to a year, with the law as regressor: 1 from February 1983 on.
casualties <- function(series, until) {
  window(log(Seatbelts[, series]), end = c(until, 12L))
}

law <- function(until) {
  window(Seatbelts[, "law"], end = c(until, 12L))
}

fit_order <- function(series, order, until) {
  # The call is kept in the model and looked at again when it forecasts, elsewhere: so it must hold the values themselves.
  do.call(arima, list(casualties(series, until), order = order, seasonal = list(order = c(0, 1, 1)), xreg = law(until), method = "CSS-ML"))
}

flow("safety", doc = "Effect of the seat-belt law on casualties, by ARIMA with intervention.", timeout = "10m") |>
  trigger("dataset.arrived") |>
  parameter("until", 1984L, help = "last year of the data") |>
  parameter("orders", list(c(1, 0, 0), c(0, 1, 1)), help = "ARIMA orders that are tried") |>
  step("start", function(self) {
    series <- c("drivers", "front")
    # One row per order, as JSON gives them and as R has them.
    orders <- if (is.matrix(self$orders)) asplit(self$orders, 1L) else self$orders
    self$candidates <- unlist(lapply(series, function(name) lapply(orders, function(order) list(series = name, order = as.numeric(order)))), FALSE)
  }) |>
  foreach("fit", over = "candidates", retry = 1, timeout = "2m", function(self) {
    candidate <- self$input
    model <- fit_order(candidate$series, candidate$order, self$until)
    self$series <- candidate$series
    self$order <- candidate$order
    self$effect <- unname(coef(model)[length(coef(model))])
    self$error <- sqrt(diag(vcov(model)))[[length(coef(model))]]
    self$aic <- AIC(model)
    self$model <- model
    cat(sprintf("%-8s ARIMA(%s): effect %+.3f (+-%.3f), AIC %.1f\n", self$series, paste(self$order, collapse = ","), self$effect,
      self$error, self$aic))
  }) |>
  join("choose", function(self, inputs) {
    table <- do.call(rbind, lapply(inputs, function(task) {
      data.frame(series = task$series, order = paste(task$order, collapse = ","), effect = task$effect, error = task$error, aic = task$aic)
    }))
    best <- unsplit(lapply(split(table$aic, table$series), function(aic) aic == min(aic)), table$series)
    self$table <- table
    self$best <- table[best, ]
    self$models <- setNames(lapply(inputs[best], function(task) task$model), table$series[best])
  }) |>
  step("end", function(self) {
    print(self$best, row.names = FALSE, digits = 3)
    effects <- setNames(self$best$effect, self$best$series)
    publish("road-safety", self$models, metrics = as.list(effects), description = "Effect of the seat-belt law on log casualties")
    publish("road-safety-effects", as.list(effects), format = "json")
  }) |>
  causey_main()

# A consumer of the published model, in R: reads the notification from standard input and forecasts the next twelve months.
#
# causey events follow --type dev.causey.model.published.v1 --name road-safety --subscriber planning --exec "Rscript consume.R"
#
# The state folder of the stack says where the server is.

event <- jsonlite::fromJSON(file("stdin"))
state <- Sys.getenv("CAUSEY_STATE", ".causey")
said <- function(file) trimws(readLines(file.path(state, file), warn = FALSE)[1])
address <- sprintf("%s/v1/models/%s/%s/content", said("url"), event$subject, event$data$version)
model <- tempfile(fileext = ".RDS")
download.file(address, model, quiet = TRUE, mode = "wb", headers = c(Authorization = paste("Bearer", said("token"))))
# RDS may run code when it is read: only from flows one trusts.
drivers <- readRDS(model)$drivers
forecast <- predict(drivers, n.ahead = 12, newxreg = rep(1, 12))
write.csv(data.frame(month = 1:12, drivers = round(exp(forecast$pred))), "forecast.csv", row.names = FALSE)
cat("forecast.csv: 12 months with version", event$data$version, "\n")

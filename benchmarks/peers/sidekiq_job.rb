# The job in Sidekiq.
require "sidekiq"

Redis.silence_deprecations = true if Redis.respond_to?(:silence_deprecations=)
REDIS = { url: ENV.fetch("BENCH_REDIS") }
Sidekiq.configure_server { |config| config.redis = REDIS; config.logger.level = Logger::WARN }
Sidekiq.configure_client { |config| config.redis = REDIS }

class Job
  include Sidekiq::Worker
  sidekiq_options queue: "bench_sidekiq"

  # One record of benchmarks/ledger.py.
  def perform(number, sent, body)
    $ledger ||= File.open(ENV.fetch("BENCH_LEDGER"), File::WRONLY | File::APPEND | File::CREAT)
    $ledger.syswrite([number, sent, Time.now.to_f].pack("q<EE"))
  end
end

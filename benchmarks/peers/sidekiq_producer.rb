# A producer as in benchmarks/producer.py.
require "json"
require_relative "sidekiq_job"

BULK = 500
BODY = "x" * ENV.fetch("BENCH_BODY", "200").to_i
$number = -1

def arguments
  [$number += 1, Time.now.to_f, BODY]
end

def seconds
  Process.clock_gettime(Process::CLOCK_MONOTONIC)
end

$stdout.sync = true
while (line = $stdin.gets)
  request = JSON.parse(line)
  count = request["count"].to_i
  started = seconds
  case request["verb"]
  when "one"
    count.times { Job.perform_async(*arguments) }
  when "many"
    while count > 0
      size = [BULK, count].min
      Sidekiq::Client.push_bulk("class" => Job, "args" => Array.new(size) { arguments })
      count -= size
    end
  when "paced"
    count.times do
      Job.perform_async(*arguments)
      sleep(request["pause"] * rand(0.5..1.5))
    end
  end
  puts JSON.generate({ seconds: seconds - started, value: nil })
end
